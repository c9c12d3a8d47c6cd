"""Whatever is asked in whatever order, rows, sums and devices agree."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.results import Limits, PressureThresholds
from protocol.vocabulary import (
    ClearType,
    DeviceState,
    Initialize,
    MemoryType,
    OptimizationLevel,
    TransferType,
)
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.errors import (
    DeviceUnavailableError,
    LimitExceededError,
    OutOfMemoryError,
    UnsupportedError,
    WorkerError,
)
from worker.core.events import DeviceLost

DEVICES = st.sampled_from(["cpu", "sim:0", "sim:1"])
SIZES = st.one_of(st.integers(1, 100_000), st.sampled_from([MIB, MIB + 1, 3 * MIB, 9 * MIB, 2**62]))
OWNERS = st.sampled_from([None, "a", "b"])
NTH = st.none() | st.integers(1, 12)
CALM = PressureThresholds(75, 90, 95)


class AnySequence(RuleBasedStateMachine):
    """A worker's memory under any sequence of requests and failures."""

    @initialize(
        knobs=st.fixed_dictionaries(
            {
                "fail_allocation": NTH,
                "fail_copy": NTH,
                "corrupt_copy": NTH,
                "lose_at": st.none() | st.integers(2, 30),
            }
        ),
        size=st.integers(20 * MIB, 20 * MIB + 2000),
    )
    def start(self, knobs: dict[str, int | None], size: int) -> None:
        """Start a worker with one device that fails and one that does not."""
        self.folder = tempfile.TemporaryDirectory()
        failing = SimulatedDevice(total_bytes=size, **knobs)
        self.machine = Machine(Path(self.folder.name), failing, SimulatedDevice(16 * MIB, latency_ms=1.0))

    def pick(self, data: Any) -> str:
        """Choose a live allocation, or one that never was."""
        ids = sorted(row.allocation_id for row in self.machine.manager.allocations.all())
        chosen: str = data.draw(st.sampled_from([*ids, "alloc-999999"]))
        return chosen

    @rule(
        device_id=DEVICES,
        size=SIZES,
        memory_type=st.sampled_from(MemoryType),
        zero=st.booleans(),
        owner=OWNERS,
        persistent=st.booleans(),
        lease_ns=st.none() | st.integers(1, 10**9),
    )
    def allocate(
        self,
        device_id: str,
        size: int,
        memory_type: MemoryType,
        owner: str | None,
        *,
        zero: bool,
        persistent: bool,
        lease_ns: int | None,
    ) -> None:
        """Allocate: it succeeds whole or changes nothing."""
        before = self.machine.figures()
        try:
            self.machine.allocate(
                device_id,
                size,
                memory_type=memory_type,
                initialize=Initialize.ZERO if zero and size < 10 * MIB else Initialize.NONE,
                owner=owner,
                persistent=persistent,
                lease_ns=lease_ns,
            )
        except DeviceUnavailableError:
            assert self.machine.manager.devices.info(device_id).state is DeviceState.LOST
        except WorkerError as error:
            assert isinstance(error, OutOfMemoryError | LimitExceededError | UnsupportedError)
            for known, (status, usage, rows, _, live) in self.machine.figures().items():
                assert (usage, rows, live) == (before[known][1], before[known][2], before[known][4])
                assert status.allocated_bytes == before[known][0].allocated_bytes

    @rule(data=st.data(), force=st.booleans())
    def deallocate(self, data: Any, *, force: bool) -> None:
        """Free one, or be told why not."""
        try:
            self.machine.memory.allocations.deallocate(self.pick(data), force=force)
        except WorkerError:
            return

    @rule(
        data=st.data(),
        device_id=DEVICES,
        kind=st.sampled_from(TransferType),
        memory_type=st.sampled_from(MemoryType),
        verify=st.booleans(),
        cancel_at=st.none() | st.integers(1, 10 * MIB),
    )
    def transfer(
        self,
        data: Any,
        device_id: str,
        kind: TransferType,
        memory_type: MemoryType,
        cancel_at: int | None,
        *,
        verify: bool,
    ) -> None:
        """Copy or move, perhaps cancelled on the way: it is done whole or nothing is left of it."""
        source = self.pick(data)
        token = self.machine.token()

        def report(completed: int, _total: int) -> None:
            if cancel_at is not None and completed >= cancel_at:
                token.cancel()

        before = {row.allocation_id for row in self.machine.manager.allocations.all()}
        lost = {device for device in self.machine.backends if self.is_lost(device)}
        try:
            destination = self.machine.transfer(
                source, device_id, kind, memory_type=memory_type, verify=verify, token=token, report=report
            )
        except WorkerError:
            after = {row.allocation_id for row in self.machine.manager.allocations.all()}
            assert after <= before
            assert after == before or lost != {
                device for device in self.machine.backends if self.is_lost(device)
            }
        else:
            assert self.machine.manager.allocations.knows(destination)
            assert self.machine.manager.allocations.knows(source) == (kind is TransferType.COPY)

    @rule(device_id=DEVICES | st.none(), kind=st.sampled_from(ClearType), owner=OWNERS, force=st.booleans())
    def clear(self, device_id: str | None, kind: ClearType, owner: str | None, *, force: bool) -> None:
        """Clear a device or all."""
        memory = self.machine.memory
        try:
            memory.relief.clear(memory.devices.ids(device_id), kind, owner, self.machine.token(), force=force)
        except DeviceUnavailableError:
            assert self.any_lost()

    @rule(device_id=DEVICES | st.none())
    def defragment(self, device_id: str | None) -> None:
        """Join free memory."""
        try:
            self.machine.memory.relief.defragment(
                self.machine.memory.devices.ids(device_id), self.machine.token()
            )
        except DeviceUnavailableError:
            assert self.any_lost()

    @rule(level=st.sampled_from(OptimizationLevel), dry_run=st.booleans())
    def optimize(self, level: OptimizationLevel, *, dry_run: bool) -> None:
        """Carry out what is recommended."""
        memory = self.machine.memory
        memory.relief.optimize(memory.devices.ids(None), level, self.machine.token(), dry_run=dry_run)

    @rule(device_id=DEVICES, limit=st.none() | st.integers(1, 30 * MIB), reserve=st.integers(0, 10 * MIB))
    def set_limits(self, device_id: str, limit: int | None, reserve: int) -> None:
        """Change a device's limits: nothing that is allocated changes."""
        self.machine.memory.relief.set_limits(device_id, Limits(limit, reserve, CALM))

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        """Let leases run out and caches go idle."""
        self.machine.pass_time(seconds * 10**9)
        self.machine.memory.tick()

    @rule()
    def look(self) -> None:
        """Ask everything: no answer changes anything."""
        memory = self.machine.memory
        everything = memory.devices.ids(None)
        status = memory.questions.status(everything, allocations=True, usage=True, fragmentation=True)
        memory.questions.pressure(everything)
        memory.relief.recommendations(everything)
        assert status.age_ms >= 0
        for row in status.devices:
            assert row.available_bytes is None or row.available_bytes >= 0
            assert row.fragmentation is None or 0 <= row.fragmentation.fragmentation_percentage <= 100

    @precondition(lambda self: not self.any_lost())
    @rule(data=st.data())
    def promise_is_kept(self, data: Any) -> None:
        """available_bytes never promises what an allocation then fails to get."""
        device_id = data.draw(st.sampled_from(["sim:1", "cpu"]))
        before = self.machine.memory.questions.status((device_id,)).devices[0].available_bytes
        if before:
            made = self.machine.allocate(device_id, before)
            self.machine.memory.allocations.deallocate(made, force=True)

    @invariant()
    def accounts_agree(self) -> None:
        """Rows, sums and backends agree after every step."""
        if hasattr(self, "machine"):
            self.machine.check()

    def is_lost(self, device_id: str) -> bool:
        """Tell whether a device is known to be lost."""
        return self.machine.manager.devices.info(device_id).state is DeviceState.LOST

    def any_lost(self) -> bool:
        """Tell whether any device is known to be lost."""
        return any(map(self.is_lost, self.machine.backends))

    def teardown(self) -> None:
        """Nothing is left, and a lost device was told of once."""
        if not hasattr(self, "machine"):
            return
        self.machine.close()
        lost = [event.device_id for event in self.machine.told(DeviceLost)]
        assert len(lost) == len(set(lost))
        assert list(Path(self.folder.name).iterdir()) == []
        self.folder.cleanup()


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
