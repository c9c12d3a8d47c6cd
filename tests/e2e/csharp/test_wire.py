"""What the generated types promise beyond the samples."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from protocol.actions import ACTIONS, EVENTS
from protocol.generators.csharp import generate
from tests.e2e.csharp.wire import round_trip

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_generated_files_are_up_to_date() -> None:
    """What lies in the tree is what the contract generates, twice the same, and nothing else lies there."""
    files = generate()
    assert files == generate()
    for path, text in files.items():
        assert (REPOSITORY / path).read_text(encoding="utf-8") == text, path
    folders = {(REPOSITORY / path).parent for path in files}
    assert {file.relative_to(REPOSITORY).as_posix() for folder in folders for file in folder.iterdir()} == {
        *files
    }


@pytest.mark.parametrize("text", ['{"device_id": "cpu"}', '{"device_id": "cpu", "limit_bytes": null}'])
def test_left_out_and_null_stay_apart(protocol: ModuleType, text: str) -> None:
    """``limit_bytes: null`` takes a cap away; leaving it out keeps the cap."""
    assert round_trip(protocol, "SetLimitsParams", text) == json.loads(text)


def test_a_newer_worker_may_say_more(protocol: ModuleType) -> None:
    """At run time unknown members are skipped, whatever they hold; strictly they are refused."""
    from System.Text.Json import JsonException

    text = '{"new": {"uptime_ms": [1, {"a": null}]}, "uptime_ms": 5}'
    assert round_trip(protocol, "PingResult", text, strict=False) == {"uptime_ms": 5}
    with pytest.raises(JsonException, match="new is unknown"):
        round_trip(protocol, "PingResult", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"uptime_ms": 5',
        '{"uptime_ms": 5} 6',
        '{"uptime_ms": 9223372036854775808}',
        '{"uptime_ms": 5.0}',
        '{"uptime_ms": "5"}',
        '{"uptime_ms": null}',
        '{"uptime_ms": NaN}',
        '{"Uptime_ms": 5}',
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_meant_is_refused_in_both_modes(
    protocol: ModuleType, text: str, *, strict: bool
) -> None:
    """Tolerant means newer, not broken."""
    from System.Text.Json import JsonException

    with pytest.raises(JsonException):
        round_trip(protocol, "PingResult", text, strict=strict)


def test_half_a_surrogate_is_refused(protocol: ModuleType) -> None:
    """Text that is not Unicode is a JsonException like every other refusal."""
    from System.Text.Json import JsonException

    with pytest.raises(JsonException, match="Unicode"):
        round_trip(protocol, "CancelParams", r'{"request_id": "\ud800"}')


@pytest.mark.parametrize("size", [0, 2**53 + 1, 2**63 - 1])
def test_sizes_are_exact(protocol: ModuleType, size: int) -> None:
    """No byte count passes through a double."""
    assert round_trip(protocol, "PingResult", f'{{"uptime_ms": {size}}}') == {"uptime_ms": size}


def test_the_action_table_is_the_contracts(protocol: ModuleType) -> None:
    """Each row is bound to the types that the contract binds it to."""
    rows = {
        row.Name: (*(kind.Name for kind in row.GetType().GetGenericArguments()), row.Changes, row.IsControl)
        for row in protocol.WireActions.All
    }
    assert rows == {
        name: (action.params.__name__, action.result.__name__, action.changes, action.control)
        for name, action in ACTIONS.items()
    }
    assert all(protocol.WireActions.Find(name).Name == name for name in ACTIONS)
    assert protocol.WireActions.Find("memory.nothing") is None
    assert {getattr(protocol.WireEvents, kind.__name__.removesuffix("Data")) for kind in EVENTS.values()} == {
        *EVENTS
    }


def test_words_go_both_ways(protocol: ModuleType) -> None:
    """A word is spelled as on the wire; strictly, one that is unknown is refused with those that are known."""
    from System.Text.Json import JsonException

    assert protocol.WireWords.ToWord(protocol.EventName.MemoryPressureChanged) == "memory.pressure_changed"
    with pytest.raises(JsonException, match=r"one of memory\.pressure_changed"):
        round_trip(protocol, "SubscribeParams", '{"events": ["memory.Pressure_changed"]}')
