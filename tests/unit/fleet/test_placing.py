"""What a gateway makes of a decision. Ray itself is stood in for."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import Executed
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceUnavailableError, ModelNotFoundError, UnsupportedError
from worker.core.records import no_report
from worker.fleet.asked import How
from worker.fleet.freeing import Freeing
from worker.fleet.silence import NodeHangsError
from worker.fleet.views import Cause, Choice, Passed, Step
from worker.fleet.words import Answered
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


ROOM = Choice("node-1", "cpu", 1, Step.FITS, 0.0, 0.0, 0.0, 4, "")


def asked(
    place: Callable[[Any], Any],
    await_start: Callable[..., bool] = lambda _, **__: False,
    freeing: Freeing | None = None,
    answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {"allocation_id": "a"},
    name: str = "memory.allocate",
    wait: Callable[[str], Answered] = lambda _: Answered({"success": True, "data": {}}, None, "1", 2),
    **data: Any,
) -> Any:
    """Return what a request is answered, by a node that answers whatever is placed there."""
    from worker.fleet.placing import Placing

    def link(node: str) -> Any:
        def send(_name: str, inner: dict[str, Any], *_: Any, **__: Any) -> Any:
            def read(_: Any) -> dict[str, Any]:
                return answer(inner)

            return SimpleNamespace(link=made, wait=lambda _: wait(node), read=read, answer=read)

        made = SimpleNamespace(node_id=node, send=send)
        return made

    roster: Any = SimpleNamespace(
        freeing=freeing or Freeing(), place=place, link=link, reserve=lambda *_: None,
        settle=lambda *_: None, await_start=await_start, meant=lambda *_: None,
    )  # fmt: skip
    placing = Placing(roster, "node-1")
    begin = placing.plan if name == "memory.plan" else placing.begin
    run = begin(name, data or {"size_bytes": 4}, How({}))
    return run(Call(CancelToken(lambda: 0), no_report))


def test_what_is_freed_while_it_is_decided_is_counted_on() -> None:
    """The free was asked for before: that its answer comes just after nothing was found is no reason to refuse."""

    class Freed:
        """Stands for who waits for the answer of a free."""

    freeing, freed = Freeing(), Freed()
    freeing.sent("memory.deallocate", freed)

    def place(_: Any) -> Any:
        if freeing.numbers():  # as it is known before the free's answer, which comes now
            freeing.answered(freed)
            return SimpleNamespace(chosen=None, why_passed=lambda: ())
        return SimpleNamespace(chosen=ROOM)

    assert asked(place, freeing=freeing) == {"allocation_id": "a"}


def test_what_fits_nowhere_is_tried_on_each_node_that_is_being_started() -> None:
    """A gateway serves before all nodes are there: a first request is not refused for that."""
    there: list[str] = []

    def place(_: Any) -> Any:
        return SimpleNamespace(chosen=ROOM if len(there) == 2 else None, why_passed=lambda: ())

    def await_start(_: Any, *, elsewhere: bool) -> bool:
        assert not elsewhere
        there.append("another node")
        return True

    assert asked(place, await_start) == {"allocation_id": "a"}


@pytest.mark.parametrize("is_default", [True, False])
def test_a_node_is_told_no_device_of_a_model_that_is_declared_for_another(*, is_default: bool) -> None:
    """Its node knows which it is for, or its engine: what it takes by itself is not named, and what it refuses is asked without."""
    choice = replace(ROOM, device_id="sim:0", is_default=is_default)

    def answer(inner: dict[str, Any]) -> dict[str, Any]:
        if "device_id" in inner:
            error = UnsupportedError("it runs on cpu: its device and its engine's params say where")
            error.executed = Executed.NO
            raise error
        return {"device_id": "cpu"}

    found = asked(
        lambda _: SimpleNamespace(chosen=choice), answer=answer, name="memory.load_model", model_id="m"
    )
    assert found == {"device_id": "cpu"}


def row(name: str, *, fits: bool) -> dict[str, Any]:
    return {"name": name, "fits": fits, "device_id": "node-1/cpu"}


def planned(starts: list[bool], *candidates: dict[str, Any]) -> Any:
    """Return what a plan is answered where so many nodes more are started, and it fits once ``starts`` is empty."""

    def place(_: Any) -> Any:
        return SimpleNamespace(chosen=None if starts else ROOM, why_passed=lambda: ())

    def answer(inner: dict[str, Any]) -> dict[str, Any]:
        rows = [row(each["name"], fits=not starts) for each in inner["candidates"]]
        return {"candidates": rows, "selected": None, "reason": "as it was"}

    def await_start(_: Any, **__: Any) -> bool:
        return bool(starts) and starts.pop()

    return asked(place, await_start, answer=answer, name="memory.plan", candidates=candidates)


def test_a_plan_in_which_nothing_fits_waits_for_nodes_that_are_being_started() -> None:
    """As the load does that it is made for: a host that plans first is not told less."""
    way = {"name": "large", "required_bytes": 4}
    assert planned([True, True], way)["selected"] == "large"
    assert planned([False], way)["selected"] is None


def test_a_plan_whose_devices_are_named_waits_for_no_other_node() -> None:
    """What another has makes no difference there."""
    starts = [True]
    assert (
        planned(starts, {"name": "here", "required_bytes": 4, "device_id": "node-1/cpu"})["selected"] is None
    )
    assert starts == [True]


@pytest.mark.parametrize("name", ["memory.load_model", "memory.plan"])
@pytest.mark.parametrize("cause", [Cause.NO_ROOM, Cause.UNKNOWN_MODEL, Cause.TOO_LARGE])
def test_what_fits_on_no_node_of_this_machine_is_not_waited_for_there(name: str, cause: Cause) -> None:
    """The gateway's own node read the same files, and has the same devices: another one there can't do more."""
    waited_elsewhere: list[bool] = []
    passed = Passed("node-1", cause, "")

    def await_start(_: Any, *, elsewhere: bool) -> bool:
        waited_elsewhere.append(elsewhere)
        return False

    def answer(_: Any) -> Any:
        raise ModelNotFoundError("no model 'm'")

    data = (
        {"model_id": "m"} if name == "memory.load_model" else {"candidates": [{"name": "a", "model_id": "m"}]}
    )
    with pytest.raises(ModelNotFoundError):
        asked(
            lambda _: SimpleNamespace(chosen=None, why_passed=lambda: (passed,)),
            await_start, answer=answer, name=name, **data,
        )  # fmt: skip
    assert waited_elsewhere == [cause is not Cause.NO_ROOM]


@pytest.mark.parametrize("cause", [Cause.UNKNOWN_MODEL, Cause.TOO_LARGE])
def test_what_no_node_could_take_waits_for_nothing_that_is_to_be_freed(cause: Cause) -> None:
    """It is not memory that it lacks."""
    freeing, clearing = Freeing(), Choice
    freeing.sent("memory.clear", clearing)

    def answer(_: Any) -> Any:
        raise ModelNotFoundError("no model 'm'")

    passed = Passed("node-1", cause, "")
    placement = SimpleNamespace(chosen=None, why_passed=lambda: (passed,))
    with pytest.raises(ModelNotFoundError):
        asked(lambda _: placement, freeing=freeing, answer=answer, name="memory.load_model", model_id="m")


@pytest.mark.parametrize("answers", [True, False])
def test_a_model_is_unloaded_where_nodes_answer(*, answers: bool) -> None:
    """What the others did is told, and which one did not answer."""
    from worker.fleet.placing import Placing

    done = {"model_id": "m", "freed_bytes": 4, "returned_bytes": 4, "claimed_bytes": 4, "kept_bytes": 0,
            "process_returned_bytes": None, "steps": [], "reason": "as asked"}  # fmt: skip

    def answer(node: str) -> Any:
        if node == "hangs" or not answers:
            raise DeviceUnavailableError(f"{node} has answered nothing for 5 s")
        return done

    links = [
        SimpleNamespace(send=lambda *_, node=each: SimpleNamespace(answer=lambda _: answer(node)))
        for each in ("there", "hangs")
    ]
    roster: Any = SimpleNamespace(meant=lambda *_: None, having=lambda _: links)
    call: Any = None
    run = Placing(roster, "there").unload("memory.unload_model", {"model_id": "m"}, How({}))
    if answers:
        assert run(call) == {**done, "reason": "as asked; hangs has answered nothing for 5 s"}
    else:
        with pytest.raises(DeviceUnavailableError):
            run(call)


def test_what_a_node_that_hangs_does_not_take_is_placed_on_another() -> None:
    """It is taken back there, so that it is there once: the host waits no longer than until that is known."""
    asked_nodes: list[str] = []

    def place(request: Any) -> Any:
        names = [each for each in ("node-1", "node-2") if each not in request.excluded]
        return SimpleNamespace(chosen=replace(ROOM, node_id=names[0]))

    def wait(node: str) -> Any:
        asked_nodes.append(node)
        if node == "node-1":
            error = NodeHangsError("node-1 has answered nothing for 5 s")
            error.executed = Executed.NO
            raise error
        return Answered({"success": True, "data": {}}, None, "1", 2)

    assert asked(place, wait=wait) == {"allocation_id": "a"}
    assert asked_nodes == ["node-1", "node-2"]
