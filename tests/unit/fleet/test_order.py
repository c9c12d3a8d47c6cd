"""Requests of one gateway reach a worker in the order in which they were sent, whatever order Ray begins them in."""

import asyncio
import itertools

import pytest

from worker.fleet.order import Order
from worker.fleet.words import Place


@pytest.mark.parametrize("arriving", list(itertools.permutations((1, 2, 3, 4)))[::5])
def test_they_go_by_their_numbers(arriving: tuple[int, ...]) -> None:
    """And those of another link wait for none of them."""

    async def run() -> list[int]:
        order, seen = Order(), list[int]()

        async def pass_by(number: int) -> None:
            await order.reach(Place("g", "link", number))
            seen.append(number)

        await order.reach(Place("g", "other", 1))
        await asyncio.gather(*map(pass_by, arriving))
        return seen

    assert asyncio.run(run()) == [1, 2, 3, 4]


def test_one_that_never_comes_holds_up_the_others_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a request was lost on its way, those after it go on."""
    monkeypatch.setattr("worker.fleet.order._PATIENCE_SECONDS", 0)

    async def run() -> None:
        order = Order()
        await order.reach(Place("g", "link", 1))
        await order.reach(Place("g", "link", 3))
        await order.reach(Place("g", "link", 4))

    asyncio.run(run())
