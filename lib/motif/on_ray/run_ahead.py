"""How far decoding runs ahead of the encoders.

Ray Data bounds it by stopping a task whose blocks nobody has read, while it keeps its CPU: where
nodes die, readers wait for blocks that were lost, and what would make these again waits for the
CPUs. So tasks run to their end here (`session.configure_data`), and begin only when images are
wanted. What decoded images a node has when it dies is also what must be decoded again.
"""

import functools
import time
from typing import Any

import ray
from ray.data._internal.execution.backpressure_policy import ENABLED_BACKPRESSURE_POLICIES
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy

BATCHES_AHEAD = 8
"""For each encoder: a second of a GPU that encodes 2,000 images a second."""
LOOK_EVERY_SECONDS = 1.0


class RunAhead(BackpressurePolicy):
    """Begins no task of the operator before the encoders' while they have images to go on with."""

    def __init__(
        self,
        data_context: Any,
        topology: Any,
        resource_manager: Any,
        *,
        encoders: str,
        batch_size: int,
        cpus_per_task: float,
    ) -> None:
        """Take Ray Data's arguments, and ours.

        Args:
            data_context: Ray Data's.
            topology: Ray Data's.
            resource_manager: Ray Data's.
            encoders: Name of their operator.
            batch_size: Images that they take at once.
            cpus_per_task: Of the operator before them.
        """
        super().__init__(data_context, topology, resource_manager)
        [self._encoders] = (operator for operator in topology if operator.name == encoders)
        [self._before] = self._encoders.input_dependencies
        self._batch_size = batch_size
        self._cpus_per_task = cpus_per_task
        self._looked = float("-inf")
        self._slots = 1

    @property
    def name(self) -> str:
        """As Ray Data names it in its progress."""
        return "RunAhead"

    def can_add_input(self, op: Any) -> bool:
        """Return whether a task may begin."""
        if op is not self._before:
            return True
        [pool] = self._encoders.get_autoscaling_actor_pools()
        ahead = _rows_made(self._before) - _rows_made(self._encoders)
        return (
            ahead < BATCHES_AHEAD * self._batch_size * max(pool.current_size(), 1)
            and self._before.metrics.num_tasks_running < self._most_tasks()
        )

    def _most_tasks(self) -> int:
        """Return as many tasks as CPUs take, and a few that wait there for the next to be free."""
        if time.monotonic() - self._looked >= LOOK_EVERY_SECONDS:
            self._looked = time.monotonic()
            self._slots = max(int(ray.cluster_resources().get("CPU", 1) / self._cpus_per_task), 1)
        return self._slots + max(self._slots // 4, 1)


def policies(*, encoders: str, batch_size: int, cpus_per_task: float) -> list[Any]:
    """Return what makes Ray Data's policies and this one; tasks get its configuration, pickled."""
    run_ahead = functools.partial(
        RunAhead, encoders=encoders, batch_size=batch_size, cpus_per_task=cpus_per_task
    )
    return [*ENABLED_BACKPRESSURE_POLICIES, run_ahead]


def _rows_made(operator: Any) -> int:
    return operator.metrics.rows_task_outputs_generated
