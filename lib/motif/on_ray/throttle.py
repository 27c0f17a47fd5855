"""A limit on how many objects a second all processes of a run together ask a store for."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import ray

# Of reads that wait; each decoding process has some tens of them.
_WAITING_AT_ONCE = 10_000


class _Turns:
    def __init__(self, per_second: float) -> None:
        self._apart = 1 / per_second
        self._next = time.monotonic()

    async def take(self) -> None:
        now = time.monotonic()
        # What nobody took is lost: after a pause, the store is not asked for all of it at once.
        turn = max(self._next, now)
        self._next = turn + self._apart
        await asyncio.sleep(turn - now)


@dataclass(frozen=True)
class Throttle:
    """What decoding processes hold of the limit."""

    turns: Any

    @classmethod
    def start(cls, per_second: float) -> "Throttle":
        """Start to hand out turns, evenly spaced."""
        actor: Any = ray.remote(  # type: ignore[call-overload]
            num_cpus=0, max_concurrency=_WAITING_AT_ONCE, max_restarts=-1, max_task_retries=-1
        )(_Turns)
        return cls(actor.remote(per_second))

    async def take(self) -> None:
        """Wait for a turn."""
        await self.turns.take.remote()
