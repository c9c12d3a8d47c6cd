"""Whatever is asked of models in whatever order: model bytes, ledger and devices agree after every step."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.results import Limits, PressureThresholds
from protocol.vocabulary import ClearType, EvictionStrategy, ModelState, OptimizationLevel, UnloadMode
from tests.rigs.model_files import contents, spec, write_model
from tests.unit.machine import Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.errors import WorkerError
from worker.core.records import AllocationRequest, ModelDemand
from worker.plugins._leases import LeasedModel, Models

KIB = 1024
SIZES = (64 * KIB, 100 * KIB, 33 * KIB, 1, 250 * KIB)
MODELS = st.sampled_from([f"m{index}" for index in range(len(SIZES))])
DEVICES = st.sampled_from([None, "cpu", "sim:0", "sim:1"])
NTH = st.none() | st.integers(1, 12)


class AnyUse(RuleBasedStateMachine):
    """Models of five sizes, two small devices of which one fails, and leases that are held over steps."""

    @initialize(
        fail_allocation=NTH, fail_copy=NTH, lose_at=st.none() | st.integers(3, 40), offload=st.booleans()
    )
    def start(
        self, fail_allocation: int | None, fail_copy: int | None, lose_at: int | None, *, offload: bool
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        models = []
        for index, size in enumerate(SIZES):
            write_model(root / f"m{index}.safetensors", size, seed=index)
            device_id = ("sim:0", "sim:1", None)[index % 3]
            models.append(
                spec(
                    root / f"m{index}.safetensors", device_id=device_id, offload=offload, keep_alive_ns=10**9
                )
            )
        failing = SimulatedDevice(
            200 * KIB, fail_allocation=fail_allocation, fail_copy=fail_copy, lose_at=lose_at
        )
        shared = root / "shared"
        shared.mkdir()
        self.machine = Machine(shared, failing, SimulatedDevice(260 * KIB), models=tuple(models))
        self.models = Models(self.machine.models, self.machine.clock)
        self.leases: list[tuple[Any, LeasedModel]] = []

    @rule(model_id=MODELS, device_id=DEVICES, make_room=st.booleans(), pin=st.none() | st.booleans())
    def load(self, model_id: str, device_id: str | None, *, pin: bool | None, make_room: bool) -> None:
        leased = {each.model_id for _, each in self.leases}
        try:
            result = self.machine.load(model_id, device_id=device_id, make_room=make_room, pin=pin)
        except WorkerError:
            return
        assert not leased & {row.model_id for row in result.models_unloaded}
        assert make_room or not result.models_unloaded

    @rule(model_id=MODELS)
    def lease(self, model_id: str) -> None:
        use = self.models.use(model_id)
        try:
            leased = use.__enter__()
        except WorkerError:
            return
        self.leases.append((use, leased))

    @rule()
    def look_at_leases(self) -> None:
        for _, leased in self.leases:
            entry = self.machine.manager.models.get(leased.model_id)
            if entry.in_use:
                index = int(leased.model_id[1:])
                try:
                    assert bytes(leased["layer.0"]) == contents(SIZES[index], index * 1000)
                except WorkerError:
                    self.lost = True

    @rule(data=st.data())
    def release(self, data: Any) -> None:
        if self.leases:
            use, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
            use.__exit__(None, None, None)

    @rule(model_id=MODELS, mode=st.sampled_from(UnloadMode))
    def unload(self, model_id: str, mode: UnloadMode) -> None:
        try:
            self.machine.memory.models.unload(model_id, mode, self.machine.token())
        except WorkerError:
            return

    @rule(
        device_id=st.sampled_from(["sim:0", "sim:1"]), size=st.integers(1, 300 * KIB), make_room=st.booleans()
    )
    def allocate(self, device_id: str, size: int, *, make_room: bool) -> None:
        memory = self.machine.memory
        try:
            name = memory.allocations.new_id()
            memory.allocations.allocate(
                name, AllocationRequest(device_id, size), self.machine.token(), make_room=make_room
            )
        except WorkerError:
            return

    @rule(kind=st.sampled_from(ClearType), force=st.booleans())
    def clear(self, kind: ClearType, *, force: bool) -> None:
        memory = self.machine.memory
        memory.relief.clear(memory.devices.ids(None), kind, None, self.machine.token(), force=force)

    @rule(
        strategy=st.sampled_from(EvictionStrategy),
        percent=st.none() | st.floats(1, 100),
        min_bytes=st.none() | st.integers(1, 600 * KIB),
        max_models=st.none() | st.integers(0, 3),
        forced=st.booleans(),
        excluded=st.frozensets(MODELS),
        dry_run=st.booleans(),
    )
    def optimize(self, excluded: frozenset[str], max_models: int | None, percent: float | None, *, dry_run: bool, **demand: Any) -> None:  # fmt: skip
        stays = excluded | {
            each.model_id for _, each in self.leases if self.machine.manager.models.get(each.model_id).in_use
        }
        before = self.machine.figures() if dry_run else None
        done = self.machine.memory.models.optimize(
            self.machine.memory.devices.ids(None),
            ModelDemand(target=percent, excluded=excluded, max_models=max_models, dry_run=dry_run, **demand),
            self.machine.token(),
        )
        gone = {row.model_id for row in done.models_unloaded}
        assert not gone & stays
        assert max_models is None or len(gone) <= max_models
        assert not gone & {row.model_id for row in done.models_kept}
        assert not done.goal_met or done.memory_freed_bytes >= (demand["min_bytes"] or 0)
        if before is not None:
            assert [row[0].model_bytes for row in self.machine.figures().values()] == [
                row[0].model_bytes for row in before.values()
            ]

    @rule(level=st.sampled_from(OptimizationLevel))
    def carry_out(self, level: OptimizationLevel) -> None:
        memory = self.machine.memory
        memory.relief.optimize(memory.devices.ids(None), level, self.machine.token(), dry_run=False)

    @rule(seconds=st.integers(0, 70))
    def pass_time(self, seconds: int) -> None:
        self.machine.pass_time(seconds * 10**9)
        self.machine.memory.tick()

    @rule(device_id=st.sampled_from(["sim:0", "sim:1"]), limit=st.none() | st.integers(1, 300 * KIB))
    def set_limits(self, device_id: str, limit: int | None) -> None:
        self.machine.memory.relief.set_limits(device_id, Limits(limit, 0, PressureThresholds(75, 90, 95)))

    @invariant()
    def accounts_agree(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.machine.check()
        for entry in self.machine.manager.models:
            assert (entry.residence is not None) == (entry.state is ModelState.LOADED)
            assert (entry.host_copy is not None) == (entry.state is ModelState.OFFLOADED)
            assert entry.reserved_on is None
        for device_id in ("sim:0", "sim:1", "cpu"):
            assert not self.machine.manager.devices.get(device_id).ledger.reservations

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            for use, _ in self.leases:
                use.__exit__(None, None, None)
            self.machine.close()
            self.folder.cleanup()


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
