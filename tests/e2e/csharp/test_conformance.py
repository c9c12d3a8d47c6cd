"""The in-memory worker is the worker's twin: the same conversations, and the same answers, word for word."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from protocol.actions import ACTIONS
from tests.e2e.csharp.conformance import CONVERSATIONS, MIB, NOT_COMPARED, Step
from tests.e2e.csharp.host import Make, answer, call, real, wait
from tests.e2e.csharp.in_memory import TESTING
from tests.rigs.model_files import write_model

__all__ = ["real"]

MODELS = {"small": 8 * MIB, "large": 48 * MIB}


@pytest.fixture
def both(real: Make, load: Any, tmp_path: Path) -> Any:
    """Return the worker itself and the one in memory, with the same devices and models."""
    load(TESTING)
    from MemoryWorker.Client.Protocol import DeviceKind
    from MemoryWorker.Testing import FakeDevice, FakeModel, InMemoryWorker
    from System import Array

    lines = ["models:"]
    for name, size in MODELS.items():
        write_model(tmp_path / f"{name}.safetensors", size)
        lines.append(f"  - {{id: {name}, path: {name}.safetensors, device: 'sim:0', declared_bytes: {size}}}")
    (tmp_path / "models.yaml").write_text("\n".join(lines))
    service = real(
        "--deterministic",
        "--simulated-device",
        "64MiB",
        "--default-device",
        "sim:0",
        "--models",
        str(tmp_path / "models.yaml"),
    )
    cpu = FakeDevice("cpu", 2**40)
    cpu.Kind = DeviceKind.Cpu
    simulated = FakeDevice("sim:0", 64 * MIB)
    simulated.GranuleBytes = 256
    devices = Array[FakeDevice]([simulated, cpu])
    models = Array[FakeModel]([FakeModel(name, size, "sim:0") for name, size in MODELS.items()])
    memory = InMemoryWorker(devices, models, None)
    yield service, memory
    wait(memory.DisposeAsync())


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_it_answers_as_the_worker_does(both: Any, name: str) -> None:
    """Each step of a conversation is answered alike: data, or code, message and details."""
    worker, memory = both
    differing = []
    for step, (one, other) in enumerate(
        zip(hold(worker, CONVERSATIONS[name]), hold(memory, CONVERSATIONS[name]), strict=True)
    ):
        if one != other:
            differing.append(f"{CONVERSATIONS[name][step][:2]}\n  the worker {one}\n  in memory  {other}")
    assert not differing, "\n".join(differing)


def test_every_action_is_compared() -> None:
    """A new one comes into a conversation, or has its reason."""
    asked = {step[0] for steps in CONVERSATIONS.values() for step in steps if step[0] in ACTIONS}
    assert asked | NOT_COMPARED.keys() == ACTIONS.keys()


def hold(service: Any, conversation: list[Step]) -> list[Any]:
    """Hold a conversation and return its answers, ids by their numbers alone."""
    named: dict[str, Any] = {}
    answers = []
    for action, data, *name in conversation:
        outcome = exchange(service, action, filled(data, named))
        named.update(dict.fromkeys(name, outcome))
        answers.append(plain(outcome))
    return answers


def exchange(service: Any, action: str, data: dict[str, Any]) -> Any:
    from MemoryWorker.Client import WorkerRequestException

    try:
        return answer(call(service, action, **data))
    except WorkerRequestException as refused:
        return {
            "code": refused.Code,
            "message": refused.Reason,
            "executed": refused.Executed.ToString(),
            "retryable": refused.Retryable,
            "details": json.loads(refused.Details.GetRawText()),
        }


def filled(value: Any, named: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: filled(each, named) for key, each in value.items()}
    if isinstance(value, str) and value.startswith("$"):
        name, field = value[1:].split(".")
        return named[name][field]
    return value


def plain(value: Any) -> Any:
    """Return an answer without what differs from one worker to the next, and without what is null or empty."""
    if isinstance(value, dict):
        learned = PRICE in value and (STORES & value.keys() or value["kind"].startswith("store_"))
        rows = {
            name: "some" if name == PRICE and learned else plain(each)
            for name, each in value.items()
            if name not in OF_ITS_OWN
            and each not in (None, [])
            and not (name == RETURNED and value.keys() == CLEARED)
        }
        return rows | {name: sorted(rows[name]) for name in SETS & rows.keys()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, str):
        for pattern, said in SAID_ALIKE.items():
            value = re.sub(pattern, said, value)
    return value


OF_ITS_OWN = {
    "age_ms", "covered_ms", "oldest_age_ms", "lease_expires_in_ms", "expires_in_ms", "last_used_ms_ago", "last_synchronized", "duration_us",
    "bytes_per_second", "load_ms", "reload_ms", "optimization_time_ms", "cost_ms",  # what time it is, and what things take
    "name", "loader", "file_location", "measured_process_bytes", "overhead_bytes", "host",  # what they are made of
    "nearest",  # what was probably meant
}  # fmt: skip
PRICE, STORES = "price_ms_per_mib", {"store", "stores"}
"""What a store's entries cost is learned from their uses, and what they are: the one in memory knows the latter alone."""
RETURNED = "returned_bytes"
CLEARED = {"cleared_bytes", RETURNED}
"""Of a store: the system has back what its memory was cut into, which the one in memory does not do."""
SETS = {"known_devices"}
"""Lists whose order says nothing."""
SAID_ALIKE = {
    r"\b((?:alloc|batches|operation|plan|transfer)-\d+)-[0-9a-f]{8}": r"\1",
    r"; did you mean [\w.]+\?": "",
    r"there are (cpu, sim:0|sim:0, cpu)": "there are cpu and sim:0",
    r"used \d+ times?, last used \d+ ms ago.*": "used so often",  # the worker's strategy says more
    r"was not used for \d+ ms": "was not used for long",
}
