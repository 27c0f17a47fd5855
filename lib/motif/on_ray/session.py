"""Connecting to the cluster that the job was submitted to, or to a private one on this machine."""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
import ray.exceptions
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data.context import DEFAULT_MAX_NUM_BLOCKS_IN_STREAMING_GEN_BUFFER

from motif import command
from motif.errors import InputError

log = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 1024**3
CONNECT_TIMEOUT_SECONDS = 10.0
MIN_CPUS = 2  # Ray counts them, it does not pin to them: on one core two take turns


def connect(*, num_cpus: int | None = None) -> None:
    """Join the cluster named by RAY_ADDRESS (`ray job submit` sets it), else start a local one.

    A second call does nothing. A cluster that happens to run on this machine is never joined
    unasked.

    Args:
        num_cpus: That a local one counts; None for what Ray finds, at least 2.

    Raises:
        InputError: RAY_ADDRESS names a cluster that does not answer.
    """
    if ray.is_initialized():
        return
    # What it logs at ERROR it raises as well, and our line says it better.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray starts its daemons by fork and exec, which harms neither of the two that warn of forks.
    warnings.filterwarnings("ignore", message="lance(db)? (is not fork-safe|fork support)")
    # Token authentication stays on where the user has a token; that it is on is no warning.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # it would rebuild our environment
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # We raise the first error of many tasks; Ray would print the others' tracebacks after it.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # An early end kills actors at work; of each task, Ray would say after our error that it will
    # be tried again.
    os.environ.setdefault("RAY_enable_output_error_log_if_still_retry", "0")
    # What `ray job submit` set for the job is merged with ours, variable by variable.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _require_listening(address)
            with _silenced_core():
                ray.init(
                    address=address,
                    # As below; on a cluster, the dashboard shows what workers log.
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    runtime_env={"env_vars": _worker_environment()},
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there ({error})"
            ) from error
        return
    # The driver's C++ core prints to our standard error, mostly about Ray's own actors. What is
    # fatal to a worker or a daemon reaches us as an exception all the same.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A process that has loaded torch waits a minute for its next task, by Ray's own settings a
    # second: a job's steps follow one another.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    with _silenced_core():
        ray.init(
            address="local",
            # Ray knows of containers' limits.
            num_cpus=num_cpus or (MIN_CPUS if (os.cpu_count() or 1) < MIN_CPUS else None),
            include_dashboard=False,
            # Ray Train's own actors complain every other second that there is no dashboard; what
            # workers log stays in Ray's log folder, and errors are raised here.
            log_to_driver=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            logging_level=logging.WARNING,
        )


def disconnect() -> None:
    """Give back all that this process holds of the cluster; a private one ends."""
    ray.shutdown()


def use_endpoint(url: str) -> None:
    """Make this process, and the workers of the session to come, use an S3 endpoint.

    Args:
        url: Of the endpoint; empty for what the environment says.

    Raises:
        InputError: It is no URL, or carries credentials, which would end in records and logs.
    """
    if not url:
        return
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise InputError(
            "--endpoint-url carries a user or a password; credentials come from AWS's usual chain"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--endpoint-url {url}: expected http://HOST:PORT or https://HOST")
    os.environ["AWS_ENDPOINT_URL_S3"] = url


def _worker_environment() -> dict[str, str]:
    """Return what workers on other machines must have of this process's environment."""
    names = ("AWS_ENDPOINT_URL_S3",)
    return {name: os.environ[name] for name in names if name in os.environ}


def is_one_node() -> bool:
    """Return whether all workers are on one machine, with one file system."""
    return sum(node["Alive"] for node in ray.nodes()) == 1


def _require_listening(address: str) -> None:
    """Ask the port, if the address names one: Ray itself goes on asking for most of a minute."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if separator:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()


def configure_data(
    *,
    block_bytes: int | None = None,
    callbacks: Sequence[Callable[[], Any]] = (),
    policies: Sequence[Callable[..., Any]] | None = None,
) -> None:
    """Set up Ray Data for our pipelines: our own progress, our own errors as they are.

    Args:
        block_bytes: Size at which a task that yields tables passes them on; None for Ray's own.
        callbacks: Each makes one of Ray Data's `ExecutionCallback`s, for each pipeline to come.
        policies: Each makes one of its `BackpressurePolicy`s; None for its own alone.
    """
    context = ray.data.DataContext.get_current()
    context.custom_execution_callback_classes = list(callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    if policies is None:
        context.remove_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY)
    else:
        context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, list(policies))
    # Ray Data stops a task after two blocks that nobody has read, with the CPU that it holds. Not
    # where policies of ours bound what waits. It takes None, which its annotation does not say.
    context._max_num_blocks_in_streaming_gen_buffer = (  # pyright: ignore[reportAttributeAccessIssue]
        DEFAULT_MAX_NUM_BLOCKS_IN_STREAMING_GEN_BUFFER if policies is None else None
    )
    if block_bytes is not None:
        context.target_max_block_size = block_bytes
    # Half of the CPUs are otherwise set aside, evenly, for operators that take a sliver of one.
    context.op_resource_reservation_enabled = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # the wrapper loses our error's class on its way
    context.issue_detectors_config.detectors = []  # it reports the encoder's weights as a leak


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raise a worker's refusal as it was, out of what Ray wraps around it."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if command.is_refusal(error.cause):
            raise error.cause from None
        raise


def resources_in_words() -> str:
    """Return what the cluster has and what of it is free."""
    have, free = ray.cluster_resources(), ray.available_resources()
    told = [
        f"{free.get(name, 0):g} of {have.get(name, 0):g} {name}s free"
        for name in ("CPU", "GPU")
        if have.get(name) or name == "CPU"
    ]
    alive = sum(node["Alive"] for node in ray.nodes())
    return f"the cluster has {alive} nodes, {', '.join(told)}"


def cpu_nodes() -> int:
    """Return how many nodes of the cluster have CPUs, at least 1."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return max(1, sum(node["Resources"].get("CPU", 0) >= 1 for node in alive))


def cpus_of_this_node() -> int:
    """Return the CPUs that Ray counts on the worker's own node, at least 1."""
    own = ray.get_runtime_context().get_node_id()
    counts = [n["Resources"].get("CPU", 1) for n in ray.nodes() if n["NodeID"] == own]
    return max(1, int(counts[0])) if counts else 1


@contextlib.contextmanager
def _silenced_core() -> Iterator[None]:
    """Hold back what Ray's C++ core prints as it starts; give it back if it does not start."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def require(*, cpus: float, gpus: float = 0, what: str) -> None:
    """Refuse a plan that the cluster can never schedule; Ray would wait for ever.

    Raises:
        InputError: The cluster lacks CPUs or GPUs.
    """
    have = ray.cluster_resources()
    for name, need in (("CPU", cpus), ("GPU", gpus)):
        if need > have.get(name, 0):
            raise InputError(
                f"{what} needs {need:g} {name}s at once, but the cluster has"
                f" {have.get(name, 0):g}; start more nodes or ask for less"
            )
