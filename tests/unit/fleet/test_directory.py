"""The directory: takes over what is new, refuses what is past, and is rebuilt from the nodes' words."""

import asyncio
from dataclasses import replace

from protocol.vocabulary import DeviceKind
from worker.fleet.changes import change
from worker.fleet.directory import Directory
from worker.fleet.views import DeviceView, NodeView
from worker.fleet.words import GATEWAY_SECONDS, LEASE_SECONDS, Since, Told


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def view(revision: int, available: int = 10, incarnation: str = "1") -> NodeView:
    return NodeView("n", incarnation, revision, (DeviceView("cpu", DeviceKind.CPU, 100, available),))


def test_a_revision_that_is_past_is_refused() -> None:
    """So is a change that follows on another one, and the word of a worker that was started again since."""

    async def run() -> None:
        directory = Directory(Clock())
        assert (await directory.tell(Told("n", view(3)))).refused is None
        assert (await directory.tell(Told("n", view(3)))).refused is not None
        assert not (await directory.tell(Told("n", change(view(4), view(5, 7))))).known
        assert (await directory.tell(Told("n", change(view(3), view(4, 7))))).refused is None
        assert (await directory.tell(Told("n", view(1, 9, "2")))).refused is None
        assert "started again" in str((await directory.tell(Told("n", view(9, 9, "1")))).refused)
        news = await directory.follow("g", Since(), 0)
        assert [(each.incarnation, each.revision) for each in news.said] == [("2", 1)]

    asyncio.run(run())


def test_it_is_rebuilt_from_what_nodes_say() -> None:
    """A new one knows no node: it asks for the whole view, and a gateway that knew another gets all anew."""

    async def run() -> None:
        first, second = Directory(Clock()), Directory(Clock())
        await first.tell(Told("n", view(1)))
        since = (await first.follow("g", Since(), 0)).since
        assert not (await second.tell(Told("n", change(view(1), view(2, 5))))).known
        assert (await second.tell(Told("n", view(3, 5)))).known
        assert [each.revision for each in (await second.follow("g", since, 0)).said] == [3]

    asyncio.run(run())


def test_a_gateway_hears_what_it_does_not_know() -> None:
    """Changes and events once each, in their order; leases while they last."""

    async def run() -> None:
        clock = Clock()
        directory = Directory(clock)
        await directory.tell(Told("n", view(1)))
        news = await directory.follow("g", Since(), 0)
        assert news.leases == {"n": LEASE_SECONDS}
        asked = asyncio.ensure_future(directory.follow("g", news.since, 60))
        await asyncio.sleep(0)
        later = change(view(1), view(2, 5))
        await directory.tell(Told("n", later, (("memory.optimized", {"x": 1}),)))
        heard = await asked
        assert heard.said == (later,)
        assert heard.events == (("n", "memory.optimized", {"x": 1}),)
        clock.now = LEASE_SECONDS
        assert (await directory.follow("g", heard.since, 0)).leases == {}

    asyncio.run(run())


def test_who_does_not_ask_is_gone() -> None:
    """A gateway is there for some seconds after it asked; a new directory says of none that it is gone."""

    async def run() -> None:
        clock = Clock()
        directory = Directory(clock)
        await directory.follow("g", Since(), 0)
        assert (await directory.tell(Told("n", view(1)))).gateways is None
        assert not await directory.leave("nobody")
        clock.now = GATEWAY_SECONDS
        await directory.follow("h", Since(), 0)
        assert (await directory.tell(Told("n", replace(view(2))))).gateways == ("h",)
        assert await directory.leave("h")
        assert (await directory.tell(Told("n", view(3)))).gateways == ()

    asyncio.run(run())
