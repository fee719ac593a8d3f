"""What large requests hold together."""

import asyncio
import contextlib

import pytest
from overworld_policy.budget import Budget
from overworld_policy.errors import ApiError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Holders:
    """Holders of a budget by name, and the order in which they were let in."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._done: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.entered: list[str] = []

    async def begin(self, name: str, size: int) -> None:
        self._done[name] = asyncio.Event()

        async def hold() -> None:
            async with self._budget.hold(size):
                self.entered.append(name)
                await self._done[name].wait()

        self.tasks[name] = asyncio.create_task(hold())
        await settle()

    async def end(self, name: str) -> None:
        self._done[name].set()
        await self.tasks[name]
        await settle()


def test_holders_wait_for_their_turn_and_small_ones_do_not() -> None:
    async def play() -> None:
        holders = Holders(Budget(10, 8))
        await holders.begin("a", 6)
        await holders.begin("b", 6)
        await holders.begin("c", 1)  # would fit, but is not to overtake b for ever
        await holders.begin("none", 0)
        await holders.begin("less than none", -5)
        assert holders.entered == ["a", "none", "less than none"]
        await holders.end("none")
        assert "b" not in holders.entered
        await holders.end("a")
        assert holders.entered[3:] == ["b", "c"]
        await holders.begin("d", 4)
        assert "d" not in holders.entered
        await holders.end("c")
        assert holders.entered[-1] == "d"

    asyncio.run(play())


def test_one_alone_may_hold_more_than_there_is() -> None:
    async def play() -> None:
        holders = Holders(Budget(10, 8))
        await holders.begin("a", 99)
        await holders.begin("b", 1)
        assert holders.entered == ["a"]
        await holders.end("a")
        assert holders.entered == ["a", "b"]

    asyncio.run(play())


def test_those_who_give_up_waiting_or_fail_leave_nothing_behind() -> None:
    async def play() -> None:
        budget = Budget(10, 2)
        holders = Holders(budget)
        await holders.begin("a", 10)
        await holders.begin("b", 5)
        await holders.begin("c", 5)
        with pytest.raises(ApiError) as refused:
            async with budget.hold(1):
                pass
        assert refused.value.status == 429
        holders.tasks["b"].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holders.tasks["b"]
        holders.tasks["a"].cancel()
        await settle()
        assert holders.entered == ["a", "c"]
        await holders.end("c")
        assert repr(budget) == "Budget(0 of 10 held, 0 waiting)"

    asyncio.run(play())
