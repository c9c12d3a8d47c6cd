"""A Python for the worker is found and checked before anything is started; each lack is a sentence that mends it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import CLIENT, ask, make, milliseconds, options, strings, wait
from tests.e2e.csharp.interpreters import STANDS_FOR_ONE, python_3_10, script
from tests.rigs.dotnet.pack import make_wheel

VERSION = "0.1.0"
NEEDED = ("orjson", "psutil", "pydantic", "PyYAML")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the worker's wheel."""
    pytest.importorskip("setuptools", reason="building a wheel takes setuptools")
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """Return a virtual environment with nothing in it."""
    return make_venv(tmp_path / "venv")


@pytest.fixture(scope="module")
def pattern(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the worker, which is only copied: installing takes seconds."""
    made = make_venv(tmp_path_factory.mktemp("pattern") / "venv")
    pip = (sys.executable, "-m", "pip", "--python", str(python_of(made)), "install", "--quiet")
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return made


@pytest.fixture
def installed(pattern: Path, tmp_path: Path) -> Path:
    """Return an environment with the worker, without what that needs."""
    return shutil.copytree(pattern, tmp_path / "venv", symlinks=True)


@pytest.fixture
def whole(installed: Path) -> Path:
    """Return it with what this environment has, too."""
    folders = {str(metadata.distribution(name).locate_file("")) for name in NEEDED}
    (packages_of(installed) / "needed.pth").write_text("\n".join(sorted(folders)))
    return installed


def make_venv(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def packages_of(venv: Path) -> Path:
    return next(venv.glob("lib/python3*/site-packages"))


@pytest.fixture
def prepare(load: Any) -> Callable[..., Any]:
    """Return ``prepare(**options)``: prepares an environment and returns it."""
    load(CLIENT)
    from MemoryWorker.Client import PythonEnvironment, PythonEnvironmentOptions

    def prepare(**fields: Any) -> Any:
        return wait(PythonEnvironment.PrepareAsync(make(PythonEnvironmentOptions, **fields)))

    return prepare


def lacks(problem: str) -> Any:
    """Expect an exception of this kind whose message is one line."""
    from MemoryWorker.Client import PythonEnvironmentException

    def check(error: Any) -> bool:
        return error.Problem.ToString() == problem and "\n" not in error.Message

    return pytest.raises(PythonEnvironmentException, check=check)


def test_an_environment_that_has_everything(prepare: Any, whole: Path) -> None:
    """It is checked and taken as it is; a service that is told of it starts its worker there, from any folder."""
    found = prepare(Venv=str(whole))
    assert (found.Interpreter, found.WorkerVersion, found.WasMade) == (str(python_of(whole)), VERSION, False)
    assert found.PythonVersion == "{}.{}.{}".format(*sys.version_info[:3])
    from MemoryWorker.Client import PythonEnvironmentOptions, PythonWorkerService

    crowded = whole.parent
    for name in ("worker", "protocol", "memory_worker"):
        (crowded / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    wanted = make(PythonEnvironmentOptions, Interpreter=str(python_of(whole)))
    told = options(["-m", "worker"], WorkingDirectory=str(crowded), Python=wanted, max_restarts=0)
    service = PythonWorkerService(told)
    assert ask(service, "worker.hello")["worker_version"] == VERSION
    wait(service.DisposeAsync())


def test_a_missing_dependency(prepare: Any, installed: Path) -> None:
    """What is missing is named, with the command that brings it."""
    with lacks("DependencyMissing") as caught:
        prepare(Venv=str(installed))
    python = python_of(installed)
    assert caught.value.Message == (
        f"'{python}' has memory-worker {VERSION} without what it needs, orjson>=3.10 and psutil>=6 and pydantic>=2.9 and "
        f"PyYAML>=6: run '{python} -m pip install memory-worker'"
    )


def test_a_dependency_that_is_too_old(prepare: Any, whole: Path) -> None:
    """Its version is named beside the one that is needed."""
    old = packages_of(whole) / "orjson-3.9.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: orjson\nVersion: 3.9.1\n")
    with lacks("DependencyMissing") as caught:
        prepare(Venv=str(whole))
    assert "without what it needs, orjson>=3.10 (there is 3.9.1): run" in caught.value.Message


def test_no_worker_in_it(prepare: Any, venv: Path) -> None:
    """A Python without the worker is told from one that is broken."""
    with lacks("WorkerMissing") as caught:
        prepare(Venv=str(venv))
    assert caught.value.Message.startswith(f"'{python_of(venv)}' has no memory-worker: run '")


@pytest.mark.parametrize("name", ["worker", "protocol"])
def test_another_packages_files_over_its_own(prepare: Any, whole: Path, name: str) -> None:
    """Both packages install a ``worker``: the one that came last has put its files over the other's."""
    taken = packages_of(whole) / name / "__init__.py"
    taken.write_text("# somebody else's\n")
    with lacks("NameTaken") as caught:
        prepare(Venv=str(whole))
    assert caught.value.Message == (
        f"'{taken}' is not memory-worker's own any more, another package put its files there: give the worker an "
        "environment of its own (PythonEnvironmentOptions.Folder)"
    )


def test_too_old(prepare: Any, tmp_path: Path, wheel: Path) -> None:
    """As an interpreter that is named, and as one to make an environment from."""
    old = python_3_10(tmp_path)
    with lacks("TooOld") as caught:
        prepare(BasePython=old, Folder=str(tmp_path / "made"), Wheel=str(wheel))
    assert f"'{old}' is 3.10." in caught.value.Message
    if Path(old).parent == tmp_path:
        return  # a stand-in, which cannot be asked anything else
    with lacks("TooOld") as caught:
        prepare(Interpreter=old)
    assert caught.value.Message.startswith(f"the worker needs Python 3.11 or newer, and '{old}' is 3.10.")


def test_no_python(prepare: Any, tmp_path: Path, wheel: Path) -> None:
    """A name that stands for nothing, and a program that is none."""
    for program, why in (
        ("/no/such/python", "there is no such program"),
        ("/etc/passwd", "it is a file that can't be executed"),
        (str(tmp_path), "it is a folder"),
    ):
        with lacks("NotFound") as caught:
            prepare(Interpreter=program)
        assert f"'{program}' is no Python that can be started ({why}): name a Python" in caught.value.Message
    with lacks("NotFound") as caught:
        prepare(Interpreter="/bin/false")
    assert caught.value.Message.startswith(
        "'/bin/false' is no Python that can be started (exit code 1): name a Python 3.11"
    )
    with lacks("NotFound"):
        prepare(BasePython="/no/such/python", Folder=str(tmp_path / "made"), Wheel=str(wheel))


@pytest.mark.parametrize("option", ["Venv", "WheelFolder", "Wheel"])
def test_a_folder_that_is_not_there(prepare: Any, tmp_path: Path, wheel: Path, option: str) -> None:
    """It is named, with the option that named it; nothing is made."""
    with lacks("FolderMissing") as caught:
        prepare(**{"Folder": str(tmp_path / "made"), "Wheel": str(wheel), option: str(tmp_path / "nowhere")})
    assert f"{option} '{tmp_path / 'nowhere'}' is not there" in caught.value.Message
    assert not (tmp_path / "made").exists()


def test_a_folder_with_other_things(prepare: Any, tmp_path: Path, wheel: Path) -> None:
    """An environment is never made over what is not one."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with lacks("NotMade") as caught:
        prepare(Folder=str(tmp_path / "photos"), Wheel=str(wheel), BasePython=sys.executable)
    assert f"'{tmp_path / 'photos'}' has other things in it" in caught.value.Message
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_folder_where_nothing_can_be_made(prepare: Any, wheel: Path) -> None:
    """It is the folder that is named, and not a file of ours in it."""
    with lacks("NotMade") as caught:
        prepare(Folder="/proc/made", Wheel=str(wheel), BasePython=sys.executable)
    assert caught.value.Message == (
        "the worker's environment could not be made (no file can be made in '/proc'): "
        "set Folder to a folder that can be written to"
    )


def test_nothing_is_made_unasked(prepare: Any, tmp_path: Path, wheel: Path) -> None:
    """Where that is forbidden, the sentence says how it is made before."""
    with lacks("WorkerMissing") as caught:
        prepare(Folder=str(tmp_path / "made"), Wheel=str(wheel), MayMake=False)
    assert "make one before, with PythonEnvironment.PrepareAsync" in caught.value.Message


def test_options_that_contradict(prepare: Any, tmp_path: Path) -> None:
    """One environment is named, or none."""
    from System import ArgumentException

    with pytest.raises(ArgumentException, match="set one of them"):
        prepare(Interpreter="python3", Venv=str(tmp_path))


def test_a_start_with_another_worker_in_the_way(load: Any, tmp_path: Path) -> None:
    """Also a start that was not prepared says what is in the way: before, asked, and after it failed."""
    load(CLIENT)
    from MemoryWorker.Client import PythonEnvironment, PythonWorkerService, WorkerStartException

    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "__init__.py").touch()
    told = options(["-m", "worker"], WorkingDirectory=str(tmp_path), max_restarts=0)
    sentence = (
        f"'{tmp_path / 'worker'}' is in the way of the worker's own package 'worker': start the worker with "
    )
    with lacks("NameTaken") as caught:
        PythonEnvironment.CheckFolder(told)
    assert caught.value.Message.startswith(sentence)
    service = PythonWorkerService(told)
    with pytest.raises(WorkerStartException) as failed:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert sentence in failed.value.Message


def test_a_working_directory_that_is_not_there(prepare: Any, whole: Path, tmp_path: Path) -> None:
    """It is said when the environment is applied, before anything is started."""
    found = prepare(Interpreter=str(python_of(whole)))
    with lacks("FolderMissing") as caught:
        found.Apply(options([], WorkingDirectory=str(tmp_path / "nowhere")))
    assert f"WorkingDirectory '{tmp_path / 'nowhere'}' is not there" in caught.value.Message


def test_an_environment_that_lacks_something_fails_the_start(load: Any, venv: Path) -> None:
    """With the option set the start throws the same; while the breaker is open, calls still say the sentence."""
    load(CLIENT)
    from MemoryWorker.Client import PythonEnvironmentOptions, PythonWorkerService, WorkerStartException

    wanted = make(PythonEnvironmentOptions, Venv=str(venv))
    service = PythonWorkerService(options([], Python=wanted, max_restarts=0))
    with lacks("WorkerMissing") as caught:
        wait(service.StartAsync())
    assert isinstance(caught.value, WorkerStartException)
    with pytest.raises(WorkerStartException, match="failed too often") as broken:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert (
        f"the last time: the worker has no Python that it could run in; '{python_of(venv)}' has no memory-worker: run '"
        in broken.value.Message
    )


def test_the_probe_is_understood_by_an_old_python() -> None:
    """What asks an interpreter for its version must not fail at an old one."""
    probe = Path(__file__).resolve().parents[3] / "csharp_host/src/MemoryWorker.Client/Environments/probe.py"
    olds = sorted(Path.home().glob(".pyenv/versions/[23].[6-9].*/bin/python"))
    for old in [*map(str, olds), sys.executable]:
        done = subprocess.run(
            [old, "-c", probe.read_text(), "torch"], capture_output=True, text=True, check=False
        )
        assert 'memory-worker-probe:{"' in done.stdout, done.stderr


def test_an_interpreter_that_prints_at_its_start(
    prepare: Any, whole: Path, wheel: Path, tmp_path: Path
) -> None:
    """What its own start-up files say is passed over: it is found, asked and taken as one that says nothing."""
    (packages_of(whole) / "sitecustomize.py").write_text(
        "import atexit\nprint('Welcome\\nto {the} 2.7 cluster')\natexit.register(print, 'Bye')\n"
    )
    assert prepare(Venv=str(whole)).WorkerVersion == VERSION
    loud = script(tmp_path / "loud", f"echo Welcome; echo 2.7; {STANDS_FOR_ONE}; echo Bye")
    with lacks("NotMade"):  # it has been found: what it lacks is venv
        prepare(BasePython=str(loud), Folder=str(tmp_path / "made"), Wheel=str(wheel))


def test_an_interpreter_that_hangs(prepare: Any, wheel: Path, tmp_path: Path) -> None:
    """It is named, with the time it had, as an interpreter and as one to make an environment from."""
    hangs = str(script(tmp_path / "hangs", "exec sleep 600"))
    with lacks("NotFound") as caught:
        prepare(Interpreter=hangs, StepTimeout=milliseconds(200))
    assert caught.value.Message.startswith(
        f"'{hangs}' is no Python that can be started ('{hangs}' did not finish within 0.2 s): name a Python 3.11"
    )
    with lacks("NotFound") as caught:
        prepare(
            BasePython=hangs, Folder=str(tmp_path / "made"), Wheel=str(wheel), StepTimeout=milliseconds(200)
        )
    assert (
        f"can be started, '{hangs}' did not finish within 0.2 s: install Python 3.11" in caught.value.Message
    )


def test_a_python_2(prepare: Any, wheel: Path, tmp_path: Path) -> None:
    """It is found, and too old; a stand-in refuses what Python 2 does not know."""
    real = next(iter(sorted(Path.home().glob(".pyenv/versions/2.7.*/bin/python"))), None)
    old = str(
        real
        or script(
            tmp_path / "python2",
            'case "$1" in -I) echo "Unknown option: -I" >&2; exit 2;; esac\n'
            "code=; for one; do code=$one; done\n"
            f'exec {sys.executable} -c "import sys; sys.version_info = (2, 7, 18); exec(sys.argv[1])" "$code"',
        )
    )
    with lacks("TooOld") as caught:
        prepare(BasePython=old, Folder=str(tmp_path / "made"), Wheel=str(wheel))
    assert "the worker needs Python 3.11 or newer, and '" in caught.value.Message
    assert "' is 2.7." in caught.value.Message
    if real is not None:
        with lacks("TooOld") as caught:
            prepare(Interpreter=old)
        assert f"'{old}' is 2.7." in caught.value.Message


@pytest.mark.parametrize("place", ["Folder", "Venv"])
def test_an_extra_that_there_is_not(
    prepare: Any, whole: Path, wheel: Path, tmp_path: Path, place: str
) -> None:
    """It is named with those that there are, before anything is made; an installer would only warn."""
    where = str(tmp_path / "made") if place == "Folder" else str(whole)
    with lacks("ExtraUnknown") as caught:
        prepare(**{place: where, "Wheel": str(wheel), "Extras": strings(["Torch", "troch"])})
    assert caught.value.Message.startswith(
        "memory-worker has no extra 'troch': PythonEnvironmentOptions.Extras can"
    )
    assert "torch, cuda" in caught.value.Message
    assert not (tmp_path / "made").exists()


def test_what_an_extra_needs_is_checked(prepare: Any, whole: Path) -> None:
    """An environment that is named is not installed into: what it lacks of an extra is said, with the command."""
    python, old = python_of(whole), packages_of(whole) / "highspy-1.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: highspy\nVersion: 1.0\n")
    assert prepare(Venv=str(whole)).WorkerVersion == VERSION
    with lacks("DependencyMissing") as caught:
        prepare(Venv=str(whole), Extras=strings(["optimum"]))
    assert caught.value.Message == (
        f"'{python}' has memory-worker {VERSION} without what it needs, highspy>=1.7 (there is 1.0): "
        f"run '{python} -m pip install memory-worker[optimum]'"
    )


def test_what_is_no_wheel(prepare: Any, tmp_path: Path) -> None:
    """A file of another kind is named with its option."""
    (tmp_path / "x.whl").write_text("not a zip")
    with lacks("NotMade") as caught:
        prepare(Wheel=str(tmp_path / "x.whl"), Folder=str(tmp_path / "made"))
    assert f"Wheel '{tmp_path / 'x.whl'}' is no wheel" in caught.value.Message


def test_a_file_in_the_folders_place(prepare: Any, wheel: Path, tmp_path: Path) -> None:
    """It is left alone and named."""
    (tmp_path / "made").write_text("mine")
    with lacks("NotMade") as caught:
        prepare(Wheel=str(wheel), Folder=str(tmp_path / "made"), BasePython=sys.executable)
    assert f"('{tmp_path / 'made'}' is a file): set Folder to a folder" in caught.value.Message
    assert (tmp_path / "made").read_text() == "mine"


@pytest.mark.parametrize(
    ("given", "started"),
    [
        (["-m", "memory_worker"], ["-P", "-m", "memory_worker"]),
        (["-X", "dev", "-m", "worker", "--models", "m.yaml"], ["-P", "-X", "dev", "-m", "memory_worker", "--models", "m.yaml"]),
        (["-P", "-m", "memory_worker", "worker"], ["-P", "-m", "memory_worker", "worker"]),
        (["start.py", "worker"], ["start.py", "worker"]),
        ([], []),
    ],
)  # fmt: skip
def test_arguments_are_kept(prepare: Any, whole: Path, given: list[str], started: list[str]) -> None:
    """Only how the worker's own packages are found changes."""
    applied = prepare(Venv=str(whole)).Apply(options(given))
    assert (applied.FileName, list(applied.Arguments)) == (str(python_of(whole)), started)
