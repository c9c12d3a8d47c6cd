"""A model server as a consumer: what is asked of it, what counts of what it claims, and what is learned of its models."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from protocol.results import AllocateResult
from protocol.vocabulary import HealthState
from tests.rigs.gguf_models import write_llama
from tests.rigs.llama_cpp import LlamaSwap, llama_cpp
from tests.rigs.model_servers import OllamaStandIn, serving
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, FixedClock, SystemClock
from worker.core.consumers import Offer, Release
from worker.core.errors import OutOfMemoryError
from worker.core.models import ServerSpec
from worker.core.records import HOST, AllocationRequest
from worker.manager.models import ModelManager
from worker.servers import watch
from worker.servers.base import Seen, Served, ServerError, Step
from worker.servers.consumer import ServerConsumer
from worker.servers.known import OpenServer, open_server
from worker.servers.roster import Servers
from worker.servers.watch import LOOK_S, ServerWatch, View
from worker.telemetry.system import SystemMemory, SystemReading
from worker.workers.gone import Gone
from worker.workers.model_owners import ExternalWorker

DEVICE = "sim:0"


class OllamaOn(OllamaStandIn):
    """An Ollama whose models are on a machine's device, so that its readings show them."""

    def __init__(self, machine: Machine, models: dict[str, int]) -> None:
        super().__init__(models)
        self._machine = machine
        self.held = {name: machine.allocate(DEVICE, size, owner="ollama") for name, size in models.items()}
        self.leaks = False
        """Whether a model that it says is gone is not."""

    def unload(self, name: str | None) -> None:
        """Do as told."""
        super().unload(name)
        if name not in self.loaded and not self.leaks:
            self._machine.memory.allocations.deallocate(self.held.pop(name or ""), force=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what is closed when the test is over."""
    with ExitStack() as made:
        yield made


def consumer_of(
    machine: Machine, stack: ExitStack, kind: str, url: str, device_id: str, reload_ms: float | None = None
) -> ServerConsumer:
    """Return a server as a consumer that takes part, having been looked at."""
    opened = open_server(ServerSpec("s", kind, url), device_id)
    stack.callback(opened.server.close)
    watch = ServerWatch("s", opened, None, machine.clock, lambda *_: None, lambda *_: None)
    watch.look()
    made = ServerConsumer(watch, machine.clock, reload_ms)
    machine.memory.consumers.add_source(lambda device: [made] if device in {None, device_id} else [])
    return made


class Beside:
    """A machine with a device of 12 MiB, of which an Ollama has 4 and 6."""

    def __init__(self, tmp_path: Path, stack: ExitStack) -> None:
        self.machine = Machine(tmp_path, SimulatedDevice(12 * MIB))
        self.ollama = OllamaOn(self.machine, {"small": 4 * MIB, "large": 6 * MIB})
        url = stack.enter_context(serving(self.ollama))
        self.consumer = consumer_of(self.machine, stack, "ollama", url, DEVICE, reload_ms=100.0)
        stack.callback(self.machine.close)

    def make_room(self, size: int) -> AllocateResult:
        """Allocate, making headroom."""
        allocations = self.machine.memory.allocations
        request = AllocationRequest(DEVICE, size)
        return allocations.allocate(allocations.new_id(), request, self.machine.token(), make_room=True)


@pytest.fixture
def beside(tmp_path: Path, stack: ExitStack) -> Beside:
    """Return a machine beside an Ollama."""
    return Beside(tmp_path, stack)


def test_an_allocation_has_an_idle_model_unloaded(beside: Beside) -> None:
    """The one that costs less per byte, at a price that is told; what came back is what the device shows."""
    made = beside.make_room(4 * MIB)
    assert beside.ollama.told == ["unload large"]
    (row,) = made.released
    assert (row.consumer_id, row.kind) == ("server:s", "ollama")
    assert (row.claimed_bytes, row.returned_bytes) == (6 * MIB, 6 * MIB)
    assert "large unloaded: 100 ms to load, as declared" in row.reason


def test_a_model_in_use_is_not_asked(beside: Beside) -> None:
    """Whoever began to use it after the plan was made keeps it."""
    beside.ollama.begin("small")
    beside.ollama.begin("large")
    with pytest.raises(OutOfMemoryError):
        beside.make_room(8 * MIB)
    assert beside.ollama.told == []


def test_a_server_that_lies(beside: Beside) -> None:
    """What it says is gone is not, by the device's readings: no byte counts, and its next promise is worth less."""
    beside.ollama.leaks = True
    with pytest.raises(OutOfMemoryError):
        beside.make_room(4 * MIB)
    quotes = {each.consumer_id: each for each in beside.machine.memory.consumers.quotes(DEVICE)}
    assert quotes["server:s"].expected_yield < 1
    (row,) = (
        each
        for each in beside.machine.memory.consumers.status((DEVICE,), None)
        if each.consumer_id == "server:s"
    )
    assert row.claimed_bytes
    assert row.returned_bytes == 0


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("hung", "it does not answer in time"),
        ("broken", "500"),
        ("headers", "it does not answer in time"),
    ],
)
def test_a_server_that_hangs_is_not_waited_for(
    beside: Beside, mode: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused in bounded time, why is said, and nothing was told."""
    within_s = 60.0 if mode == "broken" else 0.3  # that one answers
    monkeypatch.setattr("worker.servers.http.ANSWER_S", within_s)
    beside.ollama.mode = mode
    with pytest.raises(OutOfMemoryError, match=f"'server:s' stays: its server can't be asked: .*{why}"):
        beside.make_room(4 * MIB)
    assert beside.ollama.told == []


def test_a_server_that_goes_while_it_is_waited_for(tmp_path: Path) -> None:
    """Nothing more is to come of it: it is not waited for any longer, and what it had came back with its process."""
    with ExitStack() as stack, ExitStack() as up:
        machine = Machine(tmp_path, SimulatedDevice(12 * MIB))
        stack.callback(machine.close)
        ollama = OllamaOn(machine, {"large": 10 * MIB})
        ollama.keeps = ollama.leaks = True
        made = consumer_of(machine, stack, "ollama", up.enter_context(serving(ollama)), DEVICE)
        (offer,) = made.offers(MIB)
        clock = machine.clock
        assert isinstance(clock, FixedClock)
        look = made.watch.look

        def look_and_end() -> View:
            if ollama.told:
                up.close()
            return look()

        made.watch.look = look_and_end  # type: ignore[method-assign]
        assert made.release(offer, CancelToken(clock.now_ns, clock.now_ns() + 60 * NS_PER_S)) == 0
        assert made.why_nothing == "its server went meanwhile"
        assert clock.now_ns() < NS_PER_S


def test_a_server_that_keeps_what_it_is_told_to_give(beside: Beside) -> None:
    """It is waited for as long as any owner, and no longer."""
    beside.ollama.keeps = True
    began = beside.machine.clock.now_ns()
    with pytest.raises(OutOfMemoryError):
        beside.make_room(4 * MIB)
    assert beside.machine.clock.now_ns() - began <= 60 * NS_PER_S
    assert len(beside.ollama.told) <= 4


class OneProcess(SystemMemory):
    """A machine on which nothing but one process takes memory: what others do beside a test is no part of it."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    def read(self) -> SystemReading:
        """Read what that process takes."""
        read = super().read()
        try:
            taken = psutil.Process(self._pid).memory_info().rss
        except psutil.NoSuchProcess:
            taken = 0
        free = 64 * 1024 * MIB - taken
        return replace(read, total_bytes=64 * 1024 * MIB, available_bytes=free, free_bytes=free)


def test_what_a_real_server_gives_back_is_what_the_machine_shows(tmp_path: Path, stack: ExitStack) -> None:
    """llama.cpp's own process ends, and the machine's memory, read before and after, has its weights back."""
    model = write_llama(tmp_path / "tiny.gguf", layers=8, width=1024, inner=2816)
    server = stack.enter_context(llama_cpp(model))
    machine = Machine(tmp_path, clock=SystemClock(), system=OneProcess(server.process.pid))
    stack.callback(machine.close)
    url = stack.enter_context(serving(LlamaSwap({"tiny": server})))
    consumer = consumer_of(machine, stack, "llama-swap", url, HOST)
    (offer,) = consumer.offers(1)
    held = psutil.Process(server.process.pid).memory_info().rss
    assert offer.bytes == pytest.approx(held, rel=0.1)
    assert offer.bytes > 350 * MIB
    gone = Gone()
    release = Release(
        "server:s", "llama-swap", offer.bytes, offer.bytes, offer.cost_ms, (offer,), offer.reason
    )
    refused = machine.memory.consumers.release([release], HOST, "a test", machine.token(), gone)
    assert refused == {}
    (row,) = gone.released
    assert row.claimed_bytes == offer.bytes
    assert row.returned_bytes == pytest.approx(held, rel=0.1)
    assert server.process.poll() is not None


# ---- what is learned ----


class Told:
    """A server that says what it is told to say."""

    def __init__(self) -> None:
        self.seen = Seen(())
        self.woken = 0
        self.asleep: str | None = None
        self.wakes: Callable[[], bool] = lambda: True

    def look(self) -> Seen:
        return self.seen

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        return tuple(Step("unloaded", each.size_bytes or 0, each.name) for each in seen.models)

    def give_back(self, step: Step) -> None:
        raise AssertionError(step)

    def is_done(self, step: Step, seen: Seen) -> bool:
        raise AssertionError(step, seen)

    def wake(self, free_bytes: int | None) -> bool:
        assert free_bytes == 7
        self.woken += 1
        return self.wakes()

    def close(self) -> None:
        """Nothing."""


class Watched:
    """A server that is looked at each second of a clock that stands otherwise."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.server = Told()
        self.changes = 0
        opened = OpenServer("told", "http://127.0.0.1:1", DEVICE, self.server)
        self.watch = ServerWatch("t", opened, None, self.clock, self._changed, lambda *_: None, lambda: 7)
        self.look()

    def _changed(self, *_: object) -> None:
        self.changes += 1

    def look(self, *models: Served) -> None:
        """Look, a second after the last time, and see these."""
        self.clock.wait(LOOK_S, CancelToken(self.clock.now_ns))
        self.server.seen = Seen(models)
        self.watch._look_once()

    def offer(self) -> Offer:
        """Return what it offers."""
        return ServerConsumer(self.watch, self.clock, None).offers(1)[0]


def test_a_load_is_measured() -> None:
    """From between the looks before it began and at which it had begun, to between those at which it ended; then it is the price."""
    up = Watched()
    loading, loaded = Served("m", 1024 * MIB, busy=True), Served("m", 1024 * MIB)
    assert "its load was not seen yet" in (up.look(loaded), up.offer())[1].reason
    up.look()
    for _ in range(3):
        up.look(loading)
    up.look(loaded)
    assert up.watch.learned("m").load_ms == 3000
    assert "3000 ms to load, as seen" in up.offer().reason


def test_a_load_that_was_seen_once_is_not_measured() -> None:
    """It may have been no load, or any time of it."""
    up = Watched()
    up.look(Served("m", MIB, busy=True))
    up.look(Served("m", MIB))
    assert up.watch.learned("m").load_ms is None


def test_what_was_in_use_is_dearer() -> None:
    """A use is counted once, whether it was seen to begin or only to be over."""
    up, rarely = Watched(), Watched()
    idle = Served("m", MIB, used="a")
    for each in (up, rarely):
        each.look(idle)
    for used in "bcd":
        up.look(replace(idle, busy=True, used="a"))
        up.look(replace(idle, used=used))
        rarely.look(idle)
        rarely.look(idle)
    assert up.watch.uses._rates._known[hash("m")][0] == 4
    assert up.offer().cost_ms > rarely.offer().cost_ms


def test_who_gave_memory_back_is_woken() -> None:
    """At each look, once it has no model any more; that it fails ends nothing."""
    up = Watched()
    woken = up.server.woken
    up.look(Served("m", MIB))
    assert up.server.woken == woken

    def fails() -> bool:
        raise ServerError("no")

    up.server.wakes = fails
    up.look()
    up.look()
    assert up.server.woken == woken + 2


def test_that_one_stays_asleep_is_said_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    """Waking it may take minutes, for which no end waits: what wakes it is said. One that is awake is not spoken of."""
    up = Watched()
    up.watch.end()
    assert capfd.readouterr().err == ""
    up.server.asleep = "POST /wake_up wakes it"
    up.watch.end()
    assert "POST /wake_up wakes it" in capfd.readouterr().err


def test_one_that_was_not_asked_yet_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong with it so far: who waits for its first answer can tell that from one that has not answered."""
    monkeypatch.setattr(watch, "start_thread", lambda *_: None)
    machine = Machine(tmp_path)
    consumers = machine.memory.consumers
    models = ModelManager(machine.manager, machine.clock, None)
    servers = Servers(
        machine.core, models, ExternalWorker(machine.core, models, consumers.questions), consumers
    )
    servers.follow((ServerSpec("mine", "ollama", "http://127.0.0.1:9"),), HOST)
    assert [each.state for each in servers.health()] == [HealthState.STARTING]
    servers._watches[0].look()
    assert [each.state for each in servers.health()] == [HealthState.DEGRADED]
    machine.close()


def test_one_that_no_thread_can_follow_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told of, and is neither a consumer nor among what is said to be well or not."""

    def refused(*_: object) -> None:
        raise OutOfMemoryError("the system has no thread")

    monkeypatch.setattr(watch, "start_thread", refused)
    machine = Machine(tmp_path)
    consumers = machine.memory.consumers
    models = ModelManager(machine.manager, machine.clock, None)
    owners = ExternalWorker(machine.core, models, consumers.questions)
    servers = Servers(machine.core, models, owners, consumers)
    servers.follow((ServerSpec("mine", "ollama", "http://127.0.0.1:9"),), HOST)
    assert list(servers.health()) == []
    assert [each.consumer_id for each in consumers.quotes() if each.consumer_id.startswith("server:")] == []
    assert "a model server is not followed" in capfd.readouterr().err
    machine.close()
