"""Plain functions as Ray tasks: many at once, answers as they come, never a silent wait."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

from motif.errors import NoProgress
from motif.on_ray import session

Answer = TypeVar("Answer")

AHEAD_PER_CPU = 4  # tasks submitted before their turn; all at once would fill the driver


def each(
    function: Callable[..., Answer],
    calls: Iterable[tuple[Any, ...]],
    *,
    what: str,
    stall_seconds: float,
    between: Callable[[], None] = lambda: None,
) -> Iterator[Answer]:
    """Call `function` in tasks of one CPU; yield the answers as they come.

    Args:
        function: Of a module of ours.
        calls: Positional arguments of each call; Ray's references among them are resolved.
        what: For the message when nothing moves.
        stall_seconds: Without an answer for so long, the job ends.
        between: Called about once a second.

    Raises:
        NoProgress: Nothing moved.
        MotifError: As a task raised it.
    """
    session.require(cpus=1, what=what)
    remote: Any = ray.remote(num_cpus=1)(function)  # type: ignore[call-overload]
    rest = iter(calls)
    pending: list[Any] = []
    moved = time.monotonic()
    while True:
        room = AHEAD_PER_CPU * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        while len(pending) < room and (call := next(rest, None)) is not None:
            pending.append(remote.remote(*call))
        if not pending:
            return
        ready, pending = ray.wait(pending, num_returns=1, timeout=1.0)
        between()
        for answer in ready:
            moved = time.monotonic()
            with session.refusals():
                result = ray.get(answer)
            yield result
        if time.monotonic() - moved > stall_seconds:
            raise NoProgress(
                f"{what}: no task has ended for {stall_seconds:.0f} s, {len(pending)} are waiting;"
                f" {session.resources_in_words()}; see Ray's logs, raise --stall-seconds, or run"
                " the same command again"
            )
