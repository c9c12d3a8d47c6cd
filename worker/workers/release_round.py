"""Having consumers give back what a plan takes of them: all at once where their owners are elsewhere, and measured by readings."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol, TypeGuard

from protocol.results import ReleasedMemory, UnloadedModel
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.consumers import EXTERNAL, Consumer, Release
from worker.core.errors import CancelledError, DeadlineExceededError
from worker.core.records import HOST, Readings
from worker.manager.consumer_table import ConsumerTable
from worker.workers.gone import Gone
from worker.workers.questions import Answers, Questions, silence


class AskedConsumer(Consumer, Protocol):
    """A consumer whose owner, outside this process, is asked by an event, and answers with its word."""

    @property
    def unheard(self) -> str | None:
        """Why asking is no use now; None where it is some."""
        ...

    def ask(self, size_bytes: int, reason: str, wait_ms: int) -> None:
        """Ask for so much. Does not wait."""
        ...


def is_asked(consumer: Consumer) -> TypeGuard[AskedConsumer]:
    """Tell whether a consumer's owner is asked; as ``is_limited`` does."""
    return hasattr(consumer, "ask")


class Surroundings(Protocol):
    """What a round needs of who knows all consumers."""

    @property
    def questions(self) -> Questions:
        """What is asked of owners."""
        ...

    def readings(self, device_id: str, *, recent: bool = False) -> Readings | None:
        """Read a device now, or just before where that is ``recent``; None where it is gone, or says nothing."""
        ...

    def lower(self, consumer: Consumer, reason: str) -> None:
        """Keep a consumer that gave back from taking it again at once."""
        ...

    def failed(self, consumer: Consumer, error: Exception) -> None:
        """Log what a consumer raised."""
        ...


class _Seen:
    """What a device showed at one moment."""

    def __init__(self, readings: Readings | None) -> None:
        self.free_bytes = None if readings is None else _left_bytes(readings)
        self.process_bytes = None if readings is None else readings.process_held_bytes


class ReleaseRound:
    """One round of releases on one device.

    1. Owners elsewhere are asked first, all at once.
    2. While they answer, consumers of this process give back, one after the other.
    3. Then the owners' answers are waited for.
    The device is read after each, and once for the last of these and whoever answered by then, so that what came back is each
    one's own. Where several gave at a time it is divided: what this process had less of is that of its consumer; what is there
    beyond someone's word is left to those still to come.
    """

    def __init__(
        self,
        around: Surroundings,
        table: ConsumerTable,
        clock: Clock,
        device_id: str,
        token: CancelToken,
        gone: Gone,
        ours: frozenset[str],
    ) -> None:
        """Take where what went is added, and which consumers' memory is this process's own."""
        self._around = around
        self._table = table
        self._clock = clock
        self._device_id = device_id
        self._token = token
        self._gone = gone
        self._ours = ours
        # All mutable state: of which nothing more is to be had, the headroom that is not yet anybody's where owners were
        # asked, the last look, and who of this process gave since, and what.
        self._refused: dict[str, str] = {}
        self._seen: int | None = None
        self._before = _Seen(None)
        self._given: tuple[Consumer, Release, int] | None = None

    def run(
        self, wanted: Iterable[tuple[Consumer | None, Release]], why: str, wait_ns: int
    ) -> dict[str, str]:
        """Have them give back. Returns of which nothing more is to be had now, and why. Raises what the token raises."""
        here: list[tuple[Consumer, Release]] = []
        asked: list[tuple[AskedConsumer, Release]] = []
        for consumer, each in wanted:
            if consumer is None:
                self._refused[each.consumer_id] = "it is not there any more"
            elif is_asked(consumer):
                asked.append((consumer, each))
            else:
                here.append((consumer, each))
        self._before = _Seen(self._around.readings(self._device_id, recent=True))
        if asked:
            self._seen = self._before.free_bytes
            self._ask(asked, here, why, wait_ns)
        else:
            try:
                self._release(here, wait_ns)
            finally:
                self._note_given()
        return self._refused

    def _release(self, here: Sequence[tuple[Consumer, Release]], wait_ns: int) -> None:
        """Have consumers of this process give back; what the last one gave is to be noted. Raises what the token raises."""
        for consumer, wanted in here:
            self._note_given()
            self._given = consumer, wanted, self._claimed_by(consumer, wanted, wait_ns)
            self._token.check()

    def _note_given(self) -> None:
        """Look at the device, and note what came back of what a consumer of this process gave; nothing where none did."""
        if self._given is None:
            return
        (consumer, wanted, claimed), before = self._given, self._before
        now = self._before = self._look()
        self._given = None
        if claimed <= 0:
            why = getattr(consumer, "why_nothing", None) or "it gave nothing back"
            self._refused.setdefault(consumer.consumer_id, why)
        returned = _gain(before.free_bytes, now.free_bytes, claimed)
        if self._seen is not None and returned is not None:
            if self._is_ours(consumer):
                # Others may have given meanwhile: what this process has less of, none of them did.
                mine = _gain(now.process_bytes, before.process_bytes, claimed)
                returned = returned if mine is None else min(returned, mine)
            self._seen += returned
        self._table.note(consumer.consumer_id, claimed, returned)
        self._gone.released.append(_row(wanted, claimed, returned))
        self._around.lower(consumer, wanted.reason)

    def _claimed_by(self, consumer: Consumer, wanted: Release, wait_ns: int) -> int:
        within = CancelToken(self._clock.now_ns, self._clock.now_ns() + wait_ns)
        claimed = 0
        with self._token.telling(within.cancel):
            for offer in wanted.offers:
                try:
                    claimed += max(0, consumer.release(offer, within))
                except (CancelledError, DeadlineExceededError):
                    self._refused[consumer.consumer_id] = "it did not give it back in time"
                    break
                except Exception as error:  # noqa: BLE001 - an operator's code
                    self._around.failed(consumer, error)
                    self._refused[consumer.consumer_id] = f"it failed: {error!r}"
                    break
        return claimed

    def _ask(
        self,
        asked: Sequence[tuple[AskedConsumer, Release]],
        here: Sequence[tuple[Consumer, Release]],
        why: str,
        wait_ns: int,
    ) -> None:
        """Ask owners, have this process's consumers give back meanwhile, and wait for what owners say."""
        wanted = {each.consumer_id: each for _, each in asked}

        def send() -> None:
            for consumer, each in asked:
                reason = why if each.kind == EXTERNAL else f"{why}; {each.reason}"
                consumer.ask(each.bytes, reason, wait_ns // NS_PER_MS)
            with suppress(
                CancelledError, DeadlineExceededError
            ):  # raised below, once what was answered is noted
                self._release(here, wait_ns)

        answers = self._around.questions.ask(
            wanted, send, self._token, wait_ns, lambda new: self._answered(new, wanted)
        )
        for consumer_id in wanted.keys() - answers.keys():
            if wanted[consumer_id].kind == EXTERNAL:
                self._refused[consumer_id] = silence(wait_ns, "unloaded it")
            else:
                self._table.note(consumer_id, None, None)
                self._refused[consumer_id] = silence(wait_ns, "given it back")

    def _answered(self, new: Answers, wanted: dict[str, Release]) -> None:
        looks = self._given is None
        self._note_given()  # its look shows what these gave, too, whose words came before it
        if not new:
            return
        if looks:
            self._before = self._look()
        now = self._before.free_bytes
        claims = {each: _claimed(said) for each, said in new.items()}
        together = sum(claims.values())
        gain = _gain(self._seen, now, together)
        for consumer_id, said in new.items():
            claimed = claims[consumer_id]
            # Of those whose words came together, each has its share.
            returned = None if gain is None else gain * claimed // (together or 1)
            self._table.note(consumer_id, claimed, returned)
            if isinstance(said, UnloadedModel):
                self._gone.unloaded.append(said)
            elif isinstance(said, str):
                self._refused[consumer_id] = said
            else:
                self._gone.released.append(_row(wanted[consumer_id], claimed, returned))
                if not claimed:
                    self._refused[consumer_id] = "it gave nothing back"
        # What is there beyond these words is left to those that are still to come: it may have gone before its word.
        known = gain is not None and self._seen is not None
        self._seen = min(now or 0, (self._seen or 0) + (gain or 0)) if known else now

    def _look(self) -> _Seen:
        return _Seen(self._around.readings(self._device_id))

    def _is_ours(self, consumer: Consumer) -> bool:
        return self._device_id == HOST and consumer.consumer_id in self._ours


def _left_bytes(readings: Readings) -> int | None:
    """Return what is left of a device, caches that are kept not counted.

    Less than nothing where memory was moved out of it: what is given back is filled with that, and is not free then.
    """
    total, used, demoted = readings.total_bytes, readings.used_bytes, readings.process_demoted_bytes
    if total is not None and used is not None and demoted is not None:
        return total - used - demoted
    return None if readings.free_bytes is None else readings.free_bytes - readings.cached_bytes


def _claimed(said: object) -> int:
    """Return how many bytes an owner's word is about."""
    if isinstance(said, UnloadedModel):
        return said.freed_bytes
    return said if isinstance(said, int) else 0


def _gain(before: int | None, after: int | None, claimed_bytes: int) -> int | None:
    """Return what came back by a device's readings, and no more than was claimed: others may have freed some, too."""
    if before is None or after is None:
        return None
    return min(max(0, after - before), claimed_bytes)


def _row(wanted: Release, claimed_bytes: int, returned_bytes: int | None) -> ReleasedMemory:
    share = min(1.0, claimed_bytes / wanted.bytes) if wanted.bytes else 0.0
    return ReleasedMemory(
        wanted.consumer_id, wanted.kind, claimed_bytes, returned_bytes, wanted.cost_ms * share, wanted.reason
    )
