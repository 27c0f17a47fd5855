"""How far the pool of encoders grows in a run: into the places that there are, and no further.

Ray Data asks for as many actors as it has work for. Those that find no place wait for the next one,
ahead of an encoder that lost its own with its node, and nobody else can do what that one has begun:
what it was at work on, and what it had made and was lost with the node.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest
from ray.data._internal.execution.execution_callback import ExecutionCallback

LOOK_EVERY_SECONDS = 1.0
ANSWER_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where an encoder may be."""

    resource: str
    """Of Ray, such as `GPU`."""
    encoders: int
    """For one of it."""

    def count(self, *, more_than: int) -> int:
        """Return for how many encoders there is a place, if for more than some.

        A node that was killed is missed after seconds. Until then it only does not answer; one in
        its place would be taken for one more.
        """
        nodes = [node for node in ray.nodes() if node["Alive"] and self._on(node)]
        if sum(map(self._on, nodes)) <= more_than:
            return more_than
        return sum(self._on(node) for node in nodes if _answers(node))

    def _on(self, node: dict[str, Any]) -> int:
        return int(node["Resources"].get(self.resource, 0)) * self.encoders


class GrowIntoPlaces(ExecutionCallback):
    """Bounds what Ray Data adds to the actors of an operator."""

    def __init__(self, operator: str, places: Places) -> None:
        self._operator = operator
        self._places = places
        self._looked = float("-inf")

    def before_execution_starts(self, executor: Any) -> None:
        """Stand between the pool and whoever wants it to grow."""
        [pool] = (
            pool
            for operator in executor._topology
            if operator.name == self._operator
            for pool in operator.get_autoscaling_actor_pools()
        )
        pool.scale = self._bounded(pool, pool.scale)

    def _bounded(
        self, pool: Any, scale: Callable[[ActorPoolScalingRequest], int | None]
    ) -> Callable[[ActorPoolScalingRequest], int | None]:
        def scale_into_places(request: ActorPoolScalingRequest) -> int | None:
            if request.delta <= 0:
                return scale(request)
            if time.monotonic() - self._looked < LOOK_EVERY_SECONDS:
                return 0
            size = pool.current_size()
            room = self._places.count(more_than=size) - size
            self._looked = time.monotonic()
            return scale(replace(request, delta=min(request.delta, room))) if room > 0 else 0

        return scale_into_places


def _answers(node: dict[str, Any]) -> bool:
    """Return whether something listens where the node's raylet did."""
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        socket.create_connection(address, timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
