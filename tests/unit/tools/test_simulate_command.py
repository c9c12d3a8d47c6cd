"""``python -m memory_worker simulate``: what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest

from protocol.vocabulary import EvictionStrategy as Strategy
from worker.tools.simulate import command as simulate_command

HEADER = '{"models": {"a": {"size_bytes": 4, "load_ms": 10}, "b": {"size_bytes": 6, "load_ms": 20}}, "capacity_bytes": 8}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three equal models in turn, in room for two."""
    models = {name: {"size_bytes": 10, "load_ms": 100} for name in "abc"}
    lines = [json.dumps({"models": models, "capacity_bytes": 20})]
    lines += [json.dumps({"use": "abc"[index % 3]}) for index in range(30)]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_command_prints_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every policy, and the optimum."""
    assert simulate_command.main([str(file), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(printed["policies"]) == sorted(strategy.value for strategy in Strategy)
    assert printed["policies"]["lru"] == {"reload_ms": 3000, "loads": 30, "evictions": 28}
    assert printed["optimum"] == {
        "reload_ms": 1600,
        "proven": True,
        "kind": "exact",
        "method": "minimum-cost flow",
    }


def test_the_command_adds_devices_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line: the sums, and each device beside them; what was recorded, where it was."""
    models = {name: {"size_bytes": 10, "load_ms": 100} for name in "ab"}
    lines = [{"models": models, "devices": {f"sim:{index}": {"capacity_bytes": 10} for index in (0, 1)}}]
    lines += [{"load": "a", "device_id": "sim:0"}, *({"use": each, "device_id": "sim:0"} for each in "aab")]
    lines += [{"use": each, "device_id": "sim:1"} for each in "abab"]
    path = tmp_path / "two.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    assert simulate_command.main([str(path), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    parts = [printed["devices"][f"sim:{index}"] for index in (0, 1)]
    assert [part["policies"]["lru"]["loads"] for part in parts] == [2, 4]
    assert printed["policies"]["lru"] == {"reload_ms": 600, "loads": 6, "evictions": 4}
    assert printed["optimum"]["reload_ms"] == sum(part["optimum"]["reload_ms"] for part in parts) == 600
    assert printed["as_recorded"] == parts[0]["as_recorded"] == {"reload_ms": 100, "loads": 1, "evictions": 0}
    assert parts[1]["as_recorded"] is None
    assert simulate_command.main([str(path)]) == 0
    table = capsys.readouterr().out
    assert table.startswith("sim:0\n") and "\nsim:1\n" in table and "\nall devices\n" in table
    assert table.count("as it happened") == 2


def test_the_command_prints_a_table(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the policies that were asked for, at the capacity that was asked for."""
    arguments = [str(file), "--policy", "lru", "--policy", "lfu", "--capacity-bytes", "30"]
    assert simulate_command.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "policy                reload s     loads  evictions   x best",
        "lru                      0.300         3          0    1.000",
        "lfu                      0.300         3          0    1.000",
        "optimum                  0.300  (exact: all models fit)",
    ]


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--optimum-seconds", "nan", "'nan' is not a time in seconds from 0 to 86400"),
        ("--optimum-seconds", "-5", "'-5' is not a time in seconds"),
        ("--within", "x", "'x' is not a percentage from 0 to 1000"),
        ("--capacity-bytes", "many", "'many' is not a size in bytes, such as"),
    ],
)
def test_numbers_that_can_not_be_used(
    option: str, value: str, told: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused in words of the options' own."""
    with pytest.raises(SystemExit):
        simulate_command.main([str(file), f"{option}={value}"])
    assert told in capsys.readouterr().err


def test_a_capacity_is_a_size_as_everywhere(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes, or with their unit."""
    assert simulate_command.main([str(file), "--json", "--capacity-bytes", "1KiB"]) == 0
    with_unit = capsys.readouterr().out
    assert simulate_command.main([str(file), "--json", "--capacity-bytes", "1024"]) == 0
    assert capsys.readouterr().out == with_unit


def test_the_command_reads_what_a_killed_worker_left(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a last line is told of and passed over; half a line before others, or alone, is none that a worker leaves."""
    assert simulate_command.main([str(file)]) == 0
    whole = capsys.readouterr().out
    with file.open("a", encoding="utf-8") as more:
        more.write('{"use": "a", "t_')
    assert simulate_command.main([str(file)]) == 0
    said = capsys.readouterr()
    assert said.out == whole
    assert "is cut short, and passed over" in said.err
    with file.open("a", encoding="utf-8") as more:
        more.write("\n")
    assert simulate_command.main([str(file)]) == 2
    file.write_text('{"models": {"a"', encoding="utf-8")
    assert simulate_command.main([str(file)]) == 2


@pytest.mark.parametrize("content", ["{}".encode("utf-16"), b"\x1f\x8b\x08\0"])
def test_a_file_that_is_no_text_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """As a shell that redirects into UTF-16 makes one, or gzip; and what to do."""
    (tmp_path / "t").write_bytes(content)
    assert simulate_command.main([str(tmp_path / "t")]) == 2
    assert "it is not UTF-8: byte 0x" in capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit code 2, nothing on stdout."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text(HEADER + '\n{"use": "z"}\n', encoding="utf-8")
    assert simulate_command.main([str(broken)]) == 2
    assert simulate_command.main([str(tmp_path / "none.jsonl")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"{broken}: line 2: model 'z' was not declared"
    with pytest.raises(SystemExit) as caught:
        simulate_command.main([str(broken), "--policy", "best"])
    assert caught.value.code == 2
