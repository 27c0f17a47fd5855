"""Nodes for a job on a cluster that starts them when they are asked for."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ray
import ray.autoscaler.sdk

from motif.errors import InputError
from motif.on_ray import session

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
TELL_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a job asks the cluster's autoscaler for before it begins."""

    cpus: int = 0
    """CPUs to ask the cluster's autoscaler for, and to wait for; 0: what is there."""
    gpus: int = 0
    """GPUs to ask the cluster's autoscaler for, and to wait for; 0: what is there."""
    wait_minutes: float = 20.0
    """How long to wait for them at most."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: A flag is out of range.
        """
        for name in ("cpus", "gpus"):
            if not 0 <= getattr(self, name) <= 100_000:
                raise InputError(f"--{name} {getattr(self, name)}: expected 0 to 100000")
        if not 0 <= self.wait_minutes <= 7 * 24 * 60:
            raise InputError(f"--wait-minutes {self.wait_minutes:g}: expected 0 to 10080")


def wait_for(wanted: Capacity) -> None:
    """Ask the autoscaler for CPUs and GPUs, and wait until the cluster has them.

    The request is taken back as soon as they are there: a node at work stays, and one that is left
    by a job that died must not stay for ever.

    Raises:
        InputError: They did not come in time.
    """
    missing = _missing(wanted)
    if not missing:
        return
    with _asked_for(wanted):
        began = told = time.monotonic()
        log.info("asked the autoscaler for %s; waiting for %s", _in_words(wanted), missing)
        while missing := _missing(wanted):
            waited = time.monotonic() - began
            if waited > 60 * wanted.wait_minutes:
                raise InputError(
                    f"waited {wanted.wait_minutes:g} minutes for {_in_words(wanted)}, and"
                    f" {session.resources_in_words()}: it has no autoscaler, or is at its limit, or"
                    " the cloud has no such nodes now; ask for less or raise --wait-minutes"
                )
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                log.info("waiting for %s since %.0f s", missing, waited)
            time.sleep(POLL_SECONDS)
        log.info("%s", session.resources_in_words())


@contextlib.contextmanager
def _asked_for(wanted: Capacity) -> Iterator[None]:
    ray.autoscaler.sdk.request_resources(
        bundles=[{"GPU": 1}] * wanted.gpus + [{"CPU": 1}] * wanted.cpus
    )
    try:
        yield
    finally:
        ray.autoscaler.sdk.request_resources(num_cpus=0, bundles=[])


def _missing(wanted: Capacity) -> str:
    have = ray.cluster_resources()
    found = []
    for name, count in (("GPU", wanted.gpus), ("CPU", wanted.cpus)):
        if count > have.get(name, 0):
            found.append(f"{count - have.get(name, 0):g} {name}s")
    return " and ".join(found)


def _in_words(wanted: Capacity) -> str:
    pairs = (("GPUs", wanted.gpus), ("CPUs", wanted.cpus))
    return " and ".join(f"{count} {name}" for name, count in pairs if count)
