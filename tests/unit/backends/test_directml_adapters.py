"""What of a DirectML adapter's figures means that memory was moved to the system's."""

from protocol.vocabulary import Source
from worker.backends.directml_adapters import AdapterReading, Demotion
from worker.core.records import SignalKind

GIB, MIB = 2**30, 2**20


def reading(used: int | None, beside: int | None) -> AdapterReading:
    """Make a reading of a process that is granted 1 GiB."""
    return AdapterReading(
        4 * GIB, GIB, Source.DXCORE, used, None,
        process_used_source=Source.DXCORE, process_non_local_bytes=beside,
    )  # fmt: skip


def test_what_copies_go_through_is_no_demotion() -> None:
    """While all that is held lies in the adapter's memory, what lies beside it is staging; the rest of it is not."""
    demotion = Demotion()
    assert demotion.judge(reading(700 * MIB, 16 * MIB), 700 * MIB).process_demoted_bytes == 0
    moved = demotion.judge(reading(400 * MIB, 316 * MIB), 700 * MIB)
    assert moved.process_demoted_bytes == 300 * MIB
    assert demotion.judge(reading(700 * MIB, 24 * MIB), 700 * MIB).process_demoted_bytes == 0
    assert demotion.judge(reading(600 * MIB, 124 * MIB), 700 * MIB).process_demoted_bytes == 100 * MIB


def test_what_was_moved_takes_headroom() -> None:
    """It would take its place again first: room that it left is not free, and its share is a signal."""
    moved = Demotion().judge(reading(600 * MIB, 300 * MIB), 900 * MIB)
    assert moved.headroom_bytes == GIB - 900 * MIB
    assert moved.headroom_anew_bytes == GIB
    (signal,) = moved.signals
    assert (signal.name, signal.kind) == ("demoted_percentage", SignalKind.DEMOTED)
    assert signal.value == round(100 / 3, 3)


def test_without_a_source_it_is_unknown() -> None:
    """Where either figure is missing nothing is said, and no headroom is taken for it."""
    for used, beside in ((None, 5), (5, None)):
        assert Demotion().judge(reading(used, beside), 100).process_demoted_bytes is None
