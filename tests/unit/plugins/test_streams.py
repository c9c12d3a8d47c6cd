"""Files are read in windows that are bounded, counted, smaller under pressure, and can be gone on from."""

import csv
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.results import Limits
from protocol.vocabulary import PressureLevel
from tests.unit.machine import MIB, Machine
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.errors import CancelledError, InvalidRequestError, LimitExceededError, OutOfMemoryError
from worker.plugins._buffers import Buffers
from worker.plugins._stream_formats import object_bytes
from worker.plugins._streams import LEAST_BYTES, Streams, Window
from worker.policy.pressure import DEFAULT_LIMITS
from worker.stream.work import Call

KIB = 1024
WINDOW = 256 * KIB


class Reader:
    """``host.stream`` of a machine, whose level and headroom a test sets."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder, pool_bytes=0)
        self.level = PressureLevel.LOW
        self.available: int | None = None
        self.buffers = Buffers(self.machine.core, self.machine.memory.allocations, lambda _due, _run: None)
        streams = Streams(self.buffers, self.machine.clock, self.left, lambda: self.level)
        self.stream = streams.stream

    def left(self) -> int | None:
        """What is available, less what buffers hold."""
        return None if self.available is None else self.available - self.buffers.holding("cpu").held_bytes

    @property
    def allocated_bytes(self) -> int:
        """What the ledger has as allocated now, lent buffers only."""
        return self.buffers.holding("cpu").in_use_bytes

    def all_items(self, path: Path, **options: Any) -> list[Any]:
        with self.stream(path, window_bytes=WINDOW, **options) as windows:
            return [item for window in windows for item in window.items]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Return a reader."""
    return Reader(tmp_path / "shared")


def rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [{"id": number, "text": "é" * rng.randrange(400), "tags": ["a", "b"]} for number in range(count)]


def write_json_lines(path: Path, items: list[Any]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in items), "utf-8")


def write_json(path: Path, items: list[Any]) -> None:
    path.write_text(json.dumps(items), "utf-8")


def write_csv(path: Path, items: list[Any]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(items)


WRITERS: dict[str, Callable[[Path, list[Any]], None]] = {
    "items.jsonl": write_json_lines,
    "items.json": write_json,
    "items.csv": write_csv,
}


@pytest.mark.parametrize("name", WRITERS)
def test_windows_hold_everything_once_and_are_bounded(name: str, reader: Reader, tmp_path: Path) -> None:
    """All items in order, in several windows, none above its bound as objects; each is counted while it is there."""
    path, items = tmp_path / name, rows(4000)
    WRITERS[name](path, items)
    found: list[Any] = []
    with reader.stream(path, window_bytes=WINDOW) as windows:
        for count, window in enumerate(windows, 1):  # noqa: B007 - the last count is compared after the loop
            assert sum(map(object_bytes, window.items)) <= WINDOW
            assert reader.allocated_bytes == WINDOW
            found += window.items
    assert count > 5
    assert reader.allocated_bytes == 0
    if name.endswith("csv"):
        assert found == [{"id": str(each["id"]), "text": each["text"]} for each in items]
    else:
        assert found == items


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", '"id","text"\n"1","é"\n'), ("a.jsonl", '{"id": "1", "text": "é"}\n'), ("a.json", '[{"id": "1", "text": "é"}]')],
)  # fmt: skip
def test_a_byte_order_mark_is_no_part_of_a_text(name: str, text: str, reader: Reader, tmp_path: Path) -> None:
    """Some write it at the start of a text in UTF-8, before a quoted name as well; where reading went on it is none."""
    (tmp_path / name).write_text(text, "utf-8-sig")
    assert reader.all_items(tmp_path / name) == [{"id": "1", "text": "é"}]
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n\ufeff{"a": 2}\n', "utf-8")
    with pytest.raises(InvalidRequestError, match="item 2"):
        reader.all_items(tmp_path / "b.jsonl")


def test_a_window_is_there_until_the_next_is_asked_for(reader: Reader, tmp_path: Path) -> None:
    """Who still has it does not keep its items: two windows at once would be twice the bound."""
    write_json_lines(tmp_path / "a.jsonl", rows(3000))
    with reader.stream(tmp_path / "a.jsonl", window_bytes=WINDOW) as windows:
        first = next(windows)
        assert first.items
        next(windows)
        assert first.items == []


def test_bytes_come_in_windows_too(reader: Reader, tmp_path: Path) -> None:
    """A file of no format that is known is read as it is."""
    path, contents = tmp_path / "weights.bin", random.Random(2).randbytes(WINDOW * 3 + 17)
    path.write_bytes(contents)
    with reader.stream(path, window_bytes=WINDOW) as windows:
        pieces = [bytes(window.data) for window in windows]
    assert [len(each) for each in pieces] == [WINDOW] * 3 + [17]
    assert b"".join(pieces) == contents


def test_a_view_that_is_kept_is_not_written_over(reader: Reader, tmp_path: Path) -> None:
    """Whoever keeps a window's bytes keeps those bytes: the next window is read elsewhere."""
    numpy = pytest.importorskip("numpy", reason="the example of whoever keeps a view")
    path = tmp_path / "weights.bin"
    path.write_bytes(b"a" * WINDOW + b"b" * WINDOW)
    with reader.stream(path, window_bytes=WINDOW) as windows:
        kept = numpy.frombuffer(next(windows).data, "uint8")
        assert next(windows).data[0] == ord("b")
        assert kept.tobytes() == b"a" * WINDOW


@pytest.mark.parametrize("name", [*WRITERS, "items.bin"])
def test_reading_goes_on_where_it_ended(name: str, reader: Reader, tmp_path: Path) -> None:
    """Whatever the window, what was read before its position and what is read after it are the whole."""
    path = tmp_path / name
    WRITERS.get(name, write_json)(path, rows(1500))

    def parts(window: Window) -> list[Any]:
        return list(window.items or window.data)

    with reader.stream(path, window_bytes=WINDOW) as windows:
        read = [(parts(each), json.loads(json.dumps(each.position))) for each in windows]
    for index, (_, position) in enumerate(read):
        with reader.stream(path, window_bytes=WINDOW * 2, after=position) as windows:
            rest = [item for window in windows for item in parts(window)]
        assert rest == [item for part, _ in read[index + 1 :] for item in part]


def test_a_file_that_only_grew_is_the_same_file(reader: Reader, tmp_path: Path) -> None:
    """A log is gone on with; another file under its name is refused."""
    path = tmp_path / "log.jsonl"
    write_json_lines(path, [1, 2])
    with reader.stream(path, window_bytes=WINDOW) as windows:
        (position,) = [each.position for each in windows]
    with path.open("a") as file:
        file.write("3\n")
    assert reader.all_items(path, after=position) == [3]
    write_json_lines(path, [7, 8, 9])
    with pytest.raises(InvalidRequestError, match="another file"):
        reader.all_items(path, after=position)


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"format": "jsonl"},
        {"format": "jsonl", "offset": "x", "items": 0, "head_bytes": 0, "head_sha256": ""},
    ],
)
def test_a_position_that_is_none(position: dict[str, Any], reader: Reader, tmp_path: Path) -> None:
    """What is not a window's position is said so."""
    write_json_lines(tmp_path / "a.jsonl", [1])
    with pytest.raises(InvalidRequestError, match="no position"):
        reader.all_items(tmp_path / "a.jsonl", after=position)


@pytest.mark.parametrize(
    ("level", "share"),
    [(PressureLevel.MODERATE, 2), (PressureLevel.HIGH, 4), (PressureLevel.CRITICAL, 16)],
)
def test_windows_are_smaller_under_pressure(
    level: PressureLevel, share: int, reader: Reader, tmp_path: Path
) -> None:
    """The next window is, and all of the file still comes; a critical level is given a second to pass."""
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(8 * MIB))
    sizes = []
    with reader.stream(path, window_bytes=2 * MIB) as windows:
        for window in windows:
            sizes.append(len(window.data))
            reader.level = level
    assert sizes[:2] == [2 * MIB, 2 * MIB // share]
    assert sum(sizes) == 8 * MIB
    assert isinstance(reader.machine.clock, FixedClock)
    waited_ns = reader.machine.clock.now_ns()
    assert (waited_ns >= 10**9) == (level is PressureLevel.CRITICAL)


def test_a_window_takes_at_most_half_of_what_there_is(reader: Reader, tmp_path: Path) -> None:
    """So that reading a file does not drive anything else out."""
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(MIB))
    reader.available = 300 * KIB
    with reader.stream(path) as windows:
        assert {len(each.data) for each in windows} == {150 * KIB, MIB % (150 * KIB)}


def test_windows_before_do_not_make_the_next_smaller(reader: Reader, tmp_path: Path) -> None:
    """What is kept of one is the next one's: below a cap all of them are half of it, and no more is ever allocated."""
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(6 * MIB))
    reader.available = 2 * MIB
    reader.machine.manager.devices.set_limits("cpu", Limits(2 * MIB, 0, DEFAULT_LIMITS.thresholds))
    with reader.stream(path) as windows:
        sizes = []
        for window in windows:
            sizes.append(len(window.data))
            assert reader.buffers.holding("cpu").held_bytes == MIB
    assert sizes == [MIB] * 6


def test_what_the_cap_leaves_is_made_do_with(reader: Reader, tmp_path: Path) -> None:
    """Where others were faster the window halves, down to 64 KiB, and then says what is missing."""
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(MIB))
    devices = reader.machine.manager.devices
    devices.set_limits("cpu", Limits(200 * KIB, 0, DEFAULT_LIMITS.thresholds))
    with reader.stream(path, window_bytes=MIB) as windows:
        assert len(next(windows).data) == 128 * KIB
    reader.buffers.drop("cpu")
    devices.set_limits("cpu", Limits(LEAST_BYTES - 4096, 0, DEFAULT_LIMITS.thresholds))
    with (
        reader.stream(path, window_bytes=MIB) as windows,
        pytest.raises((OutOfMemoryError, LimitExceededError)),
    ):
        next(windows)
    assert reader.allocated_bytes == 0


def test_an_item_larger_than_a_window_is_refused(reader: Reader, tmp_path: Path) -> None:
    """Before it is read whole, by its text; and by what it takes as objects. Both say what to ask for."""
    long, wide = tmp_path / "long.jsonl", tmp_path / "wide.jsonl"
    write_json_lines(long, ["short", "x" * WINDOW])
    write_json_lines(wide, [[{}] * 4000])
    for path in (long, wide):
        with pytest.raises(LimitExceededError, match="larger window_bytes"):
            reader.all_items(path)
    write_json(tmp_path / "long.json", ["short", "x" * WINDOW])
    with pytest.raises(LimitExceededError, match="item 2"):
        reader.all_items(tmp_path / "long.json")
    assert reader.allocated_bytes == 0


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.jsonl", '1\n{"b": \n', "a.jsonl, item 2"),
        ("a.json", "[1, 2, nonsense]", "a.json, item 3"),
        ("a.json", "[1, 2", "a.json, item 3"),
        ("a.csv", 'x,y\n1,2\n"' + "z" * 140_000 + '"\n', "a.csv, item 2"),
    ],
)
def test_an_item_that_can_not_be_read_is_named(
    name: str, text: str, where: str, reader: Reader, tmp_path: Path
) -> None:
    """Which file, which item; what was lent is back."""
    (tmp_path / name).write_text(text)
    with (
        pytest.raises(InvalidRequestError, match=where),
        reader.stream(tmp_path / name, window_bytes=8 * MIB) as windows,
    ):
        list(windows)
    assert reader.allocated_bytes == 0


def test_progress_and_cancelling(reader: Reader, tmp_path: Path) -> None:
    """Progress is told in bytes of the file; a cancelled call reads no more, and holds nothing."""
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(3 * WINDOW))
    told: list[tuple[int, int]] = []
    token = CancelToken(reader.machine.clock.now_ns)
    call = Call(token, lambda done, total: told.append((done, total)))
    with reader.stream(path, window_bytes=WINDOW, call=call) as windows:
        next(windows)
        next(windows)
        token.cancel()
        with pytest.raises(CancelledError):
            next(windows)
    assert told == [(WINDOW, 3 * WINDOW), (2 * WINDOW, 3 * WINDOW)]
    assert reader.allocated_bytes == 0


def test_leaving_early_gives_the_window_back(reader: Reader, tmp_path: Path) -> None:
    """Whoever has read enough just goes."""
    write_json_lines(tmp_path / "a.jsonl", rows(3000))
    with reader.stream(tmp_path / "a.jsonl", window_bytes=WINDOW) as windows:
        next(windows)
        assert reader.allocated_bytes == WINDOW
    assert reader.allocated_bytes == 0


def test_what_can_not_be_asked_for(reader: Reader, tmp_path: Path) -> None:
    """A format that is none, a window of nothing, a file that is not there."""
    (tmp_path / "a.jsonl").write_text("1\n")
    for options in ({"format": "xml"}, {"window_bytes": 1}):
        with (
            pytest.raises(ValueError, match="known|at least"),
            reader.stream(tmp_path / "a.jsonl", **options),
        ):
            pass
    with pytest.raises(FileNotFoundError), reader.stream(tmp_path / "b.jsonl"):
        pass


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
        max_leaves=30,
    )
)
def test_an_items_size_is_that_of_all_its_objects(item: Any) -> None:
    """Counted as the interpreter counts each."""
    expected = sys.getsizeof(item)
    if isinstance(item, dict):
        expected += sum(object_bytes(each) for pair in item.items() for each in pair)
    elif isinstance(item, list):
        expected += sum(map(object_bytes, item))
    assert object_bytes(item) == expected
