"""The recorded conversations: answered byte for byte, however their bytes arrive, and all of them valid."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from protocol.actions import ACTIONS, EVENTS, OLDER_NAMES
from protocol.contract import adapter
from protocol.vocabulary import DEFAULT_MAX_FRAME_BYTES, ErrorCode
from tests.contract.golden_files import FOLDER, Golden, goldens
from tests.rigs.worker_process import ROOT, WorkerProcess
from worker.core.errors import WorkerError
from worker.stream.frames import LineSplitter, Oversize, read_request

BOM = b"\xef\xbb\xbf"
ALL = [pytest.param(golden, id=golden.name) for golden in goldens()]
NOT_FROM_THIS_WORKER = {ErrorCode.INTERNAL_ERROR, ErrorCode.NODE_NOT_FOUND}
"""No way to make it fail that would be honest; nodes are a fleet's."""
OF_A_FLEET = {"fleet.drain"}
BYTE_BY_BYTE = ("frames", "frame_too_large", "order", "progress", "replay")
AS_WINDOWS_WRITES = (*BYTE_BY_BYTE, "allocate", "invalid_json", "invalid_request", "lease", "shutting_down")
"""All others are held to it without a process of their own: see ``test_is_read_alike_however_lines_end``."""


@pytest.mark.parametrize("golden", ALL)
def test_is_answered_as_recorded(golden: Golden) -> None:
    """The same lines and options give the same bytes, on every machine."""
    assert _lines(golden.run()) == _lines(golden.answered.read_bytes())


@pytest.mark.parametrize("name", AS_WINDOWS_WRITES)
def test_is_answered_alike_with_bom_and_crlf(name: str) -> None:
    """A host that writes as Windows does gets the same answers, still with LF alone and no BOM."""
    golden = Golden(name)
    answered = golden.run(_with_bom(_with_crlf(golden.sent.read_bytes())))
    assert _lines(_unplaced(answered)) == _lines(_unplaced(golden.answered.read_bytes()))


@pytest.mark.parametrize("name", BYTE_BY_BYTE)
def test_is_answered_alike_byte_by_byte(name: str) -> None:
    """How a pipe cuts the stream makes no difference to a running worker."""
    golden = Golden(name)
    expected = _lines(golden.answered.read_bytes())
    with WorkerProcess("--deterministic", *golden.options) as worker:
        for byte in golden.sent.read_bytes():
            worker.write(bytes([byte]))
        worker.close_input()
        assert [worker.read_line() for _ in expected] == expected
        with pytest.raises(EOFError):
            worker.read_line()
        assert worker.wait() == 0


@pytest.mark.parametrize("golden", ALL)
def test_is_cut_into_the_same_lines_at_every_offset(golden: Golden) -> None:
    """Wherever the stream is cut, the same lines come out, too long ones included."""
    sent, limit = golden.sent.read_bytes(), _max_frame_bytes(golden)
    whole = _cut(limit, sent)
    for offset in range(len(sent) + 1):
        assert _cut(limit, sent[:offset], sent[offset:]) == whole, f"cut at {offset}"
    assert _cut(limit, *(sent[at : at + 1] for at in range(len(sent)))) == whole


@pytest.mark.parametrize("change", [pytest.param(each, id=each) for each in ("crlf", "bom", "no last LF")])
@pytest.mark.parametrize("golden", ALL)
def test_is_read_alike_however_lines_end(golden: Golden, change: str) -> None:
    """CRLF, a leading BOM and a missing last LF change nothing in what a line asks for."""
    sent, limit = golden.sent.read_bytes(), _max_frame_bytes(golden)
    changed = {"crlf": _with_crlf, "bom": _with_bom, "no last LF": lambda raw: raw.removesuffix(b"\n")}[
        change
    ]
    assert _read(_cut(limit, changed(sent))) == _read(_cut(limit, sent))


def test_a_line_of_nothing_but_boms_is_answered() -> None:
    """A line that only begins over and over again is no way to bring the worker down."""
    with pytest.raises(WorkerError):
        read_request(BOM * 100_000)


@pytest.mark.parametrize("golden", ALL)
def test_every_answer_is_valid(golden: Golden) -> None:
    """The validators and the published schemas take every reply and event, and what is in them."""
    asked = _actions_by_request_id(golden)
    for line in _lines(golden.answered.read_bytes()):
        frame = json.loads(line)
        if "event" in frame:
            _hold("Event", frame)
            _hold(EVENTS[frame["event"]].__name__, frame["data"])
        elif frame["success"]:
            _hold("SuccessReply", frame)
            _hold_to_any({ACTIONS[action].result.__name__ for action in asked[frame["request_id"]]}, frame)
        else:
            _hold("ErrorReply", frame)


@pytest.mark.parametrize("golden", ALL)
def test_every_line_has_one_reply(golden: Golden) -> None:
    """One terminal reply a request line, none for a blank one; events are numbered without gaps."""
    asked = [line for line in golden.sent.read_bytes().split(b"\n") if line.removeprefix(BOM).strip()]
    frames = [json.loads(line) for line in _lines(golden.answered.read_bytes())]
    assert sum("event" not in frame for frame in frames) == len(asked)
    last: dict[str | None, int] = defaultdict(int)
    replied = set()
    for frame in frames:
        if "event" in frame:
            stream = frame.get("request_id")
            assert stream not in replied
            assert frame["sequence"] == last[stream] + 1
            last[stream] = frame["sequence"]
        elif frame["request_id"] is not None:
            replied.add(frame["request_id"])


@pytest.mark.parametrize("golden", ALL)
def test_figures_add_up(golden: Golden) -> None:
    """What is listed sums up to what is counted, and no part is larger than its whole."""
    for reply in _replies(golden):
        for device in reply.get("data", {}).get("devices", ()):
            if "allocation_count" not in device:
                continue
            held = device["allocated_bytes"] + device["external_bytes"]
            assert device["allocated_bytes"] <= device["peak_allocated_bytes"]
            assert (device["available_bytes"] or 0) <= (device["budget_bytes"] or 0)
            assert (device["used_bytes"] or 0) <= (device["total_bytes"] or 0)
            if device["allocations"] is not None:
                assert sum(row["size_bytes"] for row in device["allocations"]) == held
                assert len(device["allocations"]) == device["allocation_count"]
            if device["usage"] is not None:
                assert sum(group["allocated_bytes"] for group in device["usage"]) == held
                assert (
                    sum(group["allocation_count"] for group in device["usage"]) == device["allocation_count"]
                )


def test_every_action_succeeds_somewhere() -> None:
    """An action that no conversation shows would not be held to its types."""
    shown = set()
    for golden in goldens():
        succeeded = {frame["request_id"] for frame in _replies(golden) if frame["success"]}
        asked = _actions_by_request_id(golden)
        shown |= {action for request_id in succeeded for action in asked[request_id]}
    assert shown == set(ACTIONS) - OF_A_FLEET


def test_every_error_code_occurs_somewhere() -> None:
    """Whatever this worker can fail with is shown; a bug is in none of the records."""
    codes = {
        frame["error"]["code"] for golden in goldens() for frame in _replies(golden) if not frame["success"]
    }
    assert codes == set(ErrorCode) - NOT_FROM_THIS_WORKER


def test_the_older_names_mean_the_same() -> None:
    """Each of the older hosts' names is asked for and answered as its successor would be."""
    named = [json.loads(line)["action"] for line in _lines(Golden("older_names").sent.read_bytes())]
    assert set(named) == set(OLDER_NAMES)
    assert all(frame["success"] for frame in _replies(Golden("older_names")))


def test_no_record_is_left_over() -> None:
    """Each conversation has both halves, and options are for one that is there."""
    names = {golden.name for golden in goldens()}
    answered = {path.name.removesuffix(".out.jsonl") for path in FOLDER.glob("*.out.jsonl")}
    options = set(json.loads((FOLDER / "options.json").read_text(encoding="utf-8")))
    assert names == answered
    assert options <= names


# ---- helpers ----


def _lines(raw: bytes) -> list[bytes]:
    """Return the lines without their LF; a last one without LF is no line, and fails the comparison."""
    assert not raw or raw.endswith(b"\n")
    assert b"\r\n" not in raw
    assert not raw.startswith(BOM)
    return raw.split(b"\n")[:-1]


def _with_crlf(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _with_bom(raw: bytes) -> bytes:
    return raw if raw.startswith(BOM) else BOM + raw


def _unplaced(raw: bytes) -> bytes:
    """Drop where a line stops being JSON: where it just ends, that place is behind the CR."""
    return re.sub(rb": line 1 column \d+ \(char \d+\)", b"", raw)


def _max_frame_bytes(golden: Golden) -> int:
    if "--max-frame-bytes" not in golden.options:
        return DEFAULT_MAX_FRAME_BYTES
    value = golden.options[golden.options.index("--max-frame-bytes") + 1]
    return int(value) if value.isdecimal() else DEFAULT_MAX_FRAME_BYTES


def _cut(max_frame_bytes: int, *chunks: bytes) -> list[bytes | Oversize]:
    splitter = LineSplitter(max_frame_bytes)
    lines = [line for chunk in chunks if chunk for line in splitter.feed(chunk)]
    return [*lines, *splitter.close()]


def _read(lines: Iterable[bytes | Oversize]) -> list[Any]:
    """Return what each line asks for, or the code of what is wrong with it."""
    found: list[Any] = []
    for line in lines:
        if isinstance(line, Oversize):
            found.append(ErrorCode.FRAME_TOO_LARGE)
            continue
        try:
            request = read_request(line)
        except WorkerError as error:
            found.append((error.code, _unplaced(error.message.encode())))
        else:
            if request is not None:
                found.append((request.request_id, request.action, request.data))
    return found


@cache
def _schema(name: str) -> Draft202012Validator:
    path: Path = ROOT / "schemas" / f"{name}.json"
    return Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def _hold(name: str, value: Any) -> None:
    adapter(name).validate_json(json.dumps(value))
    _schema(name).validate(value)


def _hold_to_any(names: set[str], frame: dict[str, Any]) -> None:
    """Hold data to its type; an id that was used for two actions leaves open which of them it was."""
    refused = []
    for name in sorted(names):
        try:
            adapter(name).validate_json(json.dumps(frame["data"]))
        except ValidationError as error:
            refused.append(error)
        else:
            _schema(name).validate(frame["data"])
            return
    raise refused[0]


def _replies(golden: Golden) -> list[dict[str, Any]]:
    frames = [json.loads(line) for line in _lines(golden.answered.read_bytes())]
    return [frame for frame in frames if "event" not in frame]


def _actions_by_request_id(golden: Golden) -> dict[str, set[str]]:
    """Return which known actions each id was used for."""
    asked: dict[str, set[str]] = defaultdict(set)
    for line in _cut(_max_frame_bytes(golden), golden.sent.read_bytes()):
        try:
            request = read_request(line) if isinstance(line, bytes) else None
        except WorkerError:
            continue
        if request is not None:
            action = OLDER_NAMES.get(request.action, request.action)
            asked[request.request_id] |= {action} & set(ACTIONS)
    return asked
