"""The command line: sizes, knobs, and what is said of mistakes."""

import pytest

from worker.app.options import parse, simulated_device, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1048576", 2**20),
        ("1KiB", 2**10),
        ("512MiB", 512 * 2**20),
        ("8GiB", 8 * 2**30),
        ("8gib", 8 * 2**30),
        ("2TiB", 2**41),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_sizes(text: str, value: int) -> None:
    """A size is bytes, or a number with a binary unit."""
    assert size(text) == value


BAD_SIZES = [
    "",
    "0",
    "-1",
    "1.5GiB",
    "8GB",
    "8G",
    "GiB",
    "1 GiB",
    "x",
    str(2**63),
    "8796093022208TiB",
    "1e3",
    "9" * 5000,
]


@pytest.mark.parametrize("text", BAD_SIZES)
def test_sizes_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no size, or none that fits, ends with 2 and is quoted."""
    with pytest.raises(SystemExit) as ended:
        parse(["--limit-bytes", text])
    assert ended.value.code == 2
    assert "--limit-bytes" in capsys.readouterr().err


def test_simulated_devices() -> None:
    """Each device has its size and its own knobs, in order."""
    arguments = parse(
        [
            "--simulated-device",
            "1GiB,latency_ms=0.5,bandwidth_bytes_per_second=1MiB",
            "--simulated-device",
            "5,lose_at=9",
        ]
    )
    assert arguments.simulated_device == [
        {"total_bytes": 2**30, "latency_ms": 0.5, "bandwidth_bytes_per_second": 2**20},
        {"total_bytes": 5, "lose_at": 9},
    ]


@pytest.mark.parametrize(
    "text", ["", "x", "1GiB,", "1GiB,speed=1", "1GiB,lose_at", "1GiB,lose_at=", "1GiB,lose_at=0", "1GiB,latency_ms=-1",
             "1GiB,latency_ms=nan", "1GiB,latency_ms=inf", "1GiB,latency_ms=x"]
)  # fmt: skip
def test_simulated_devices_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in a knob is refused by name."""
    with pytest.raises(SystemExit) as ended:
        parse(["--simulated-device", text])
    assert ended.value.code == 2
    assert "--simulated-device" in capsys.readouterr().err
    assert simulated_device("1") == {"total_bytes": 1}


def test_defaults() -> None:
    """Without options the worker serves with the protocol's limits."""
    arguments = parse([])
    assert (arguments.command, arguments.max_frame_bytes, arguments.max_inflight) == (
        "serve",
        16 * 2**20,
        256,
    )
    assert arguments.simulated_device == []
    assert parse([]).simulated_device is not parse(["--simulated-device", "1"]).simulated_device


@pytest.mark.parametrize(
    "options",
    [["--max-inflight", "0"], ["--max-frame-bytes", "1023"], ["--pool-bytes", "-1"], ["--pool-bytes", "x"],
     ["--log-level", "loud"], ["--simulated", "1"], ["nothing"], ["--unknown"]],
)  # fmt: skip
def test_options_that_are_refused(options: list[str]) -> None:
    """What cannot be meant is refused; options are not guessed from their beginnings."""
    with pytest.raises(SystemExit) as ended:
        parse(options)
    assert ended.value.code == 2


@pytest.mark.parametrize(("options", "told"), [
    (["--limit-byte", "5"], "there is no option --limit-byte; did you mean --limit-bytes?"),
    (["--model=x"], "there is no option --model; did you mean --models?"),
    (["doctor", "--xyz"], "there is no option --xyz"),
    (["--store-folder", ""], "--store-folder: it is empty: name a place, or leave the option out"),
    (["--documents-root="], "--documents-root: it is empty"),
    (["--metrics-file", ""], "--metrics-file: it is empty"),
    (["simulat"], "there is no command simulat; did you mean simulate?"),
    (["eat"], "there is no command eat; there are serve, doctor, broker, fleet, simulate, report, top, mcp"),
    (["--json", "top"], "top comes first, and has options of its own: see top --help"),
    (["--max-inflight", "many"], "'many' is not a whole number from 1 to 999999999"),
    (["--max-inflight", "9999999999"], "'9999999999' is not a whole number from 1 to 999999999"),
    (["--metrics-seconds", "-1"], "'-1' is not a time from 0.1 to 3600 s"),
    (["--metrics-seconds", "nan"], "'nan' is not a time from 0.1 to 3600 s"),
    (["--metrics-seconds", "1e9"], "'1e9' is not a time from 0.1 to 3600 s"),
    (["--simulated-device", "1GiB,latency_ms=x"], "'x' is not a time from 0 to 3600000 ms"),
    (["--shared-memory", "shm"], "'shm' is none of file, section"),
])  # fmt: skip
def test_what_is_meant_is_told(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option or command that is none is named, with the nearest; a count is no size. A host logs two lines, not thirty."""
    with pytest.raises(SystemExit):
        parse(options)
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 2


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("64MiB", 2**26), ("1", 1)])
def test_pool_bytes(text: str, value: int) -> None:
    """The pool's size is written like every other size, or 0 for none."""
    assert parse(["--pool-bytes", text]).pool_bytes == value


def test_help_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    """The help has an example that works as it stands."""
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert """echo '{"request_id": "1", "action": "memory.get_status"}' | python -m memory_worker""" in text
