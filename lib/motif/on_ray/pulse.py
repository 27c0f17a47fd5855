"""Who moved last: what the stages of a run tell an actor, so that a run that hangs says where."""

import os
import time
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

ANSWER_SECONDS = 10.0


@dataclass
class _Stage:
    images: int = 0
    moved: float = field(default_factory=time.monotonic)
    at: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By process: when it spoke last, and about which image."""


class _Listener:
    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._worked = time.monotonic()

    def beat(self, stage: str, images: int, process: str, uri: str) -> None:
        now = time.monotonic()
        entry = self._stages.setdefault(stage, _Stage())
        entry.images += images
        if images:
            self._worked = now
        entry.moved = now
        entry.at[process] = (now, uri)

    def idle_seconds(self) -> float:
        """Return since when no stage has done an image."""
        return time.monotonic() - self._worked

    def report(self) -> str:
        """Return one line: per stage the images, and when and near which one it moved last."""
        now = time.monotonic()
        told = []
        for stage in ("decode", "encode", "write"):
            entry = self._stages.get(stage)
            if entry is None:
                told.append(f"{stage} never began")
                continue
            # Who spoke last is not who hangs: that is the one that has been silent longest.
            _, uri = min(entry.at.values())
            near = f", a process near {uri}" if uri else ""
            told.append(
                f"{stage} did {entry.images:,} images, moved {now - entry.moved:.0f} s ago{near}"
            )
        return "; ".join(told)


@dataclass(frozen=True)
class Pulse:
    """What stages hold of the listener; telling it costs them no wait."""

    listener: Any

    @classmethod
    def start(cls) -> "Pulse":
        """Start the listener, on the driver's node if the cluster lets it."""
        return cls(ray.remote(num_cpus=0, max_restarts=-1)(_Listener).remote())  # type: ignore[call-overload]

    def beat(self, stage: str, images: int, uri: str) -> None:
        """Say that a stage has done some images, and which one is near."""
        self.listener.beat.remote(stage, images, str(os.getpid()), uri)

    def idle_seconds(self) -> float:
        """Return since when no stage has done an image; infinite if nobody answers."""
        try:
            return ray.get(self.listener.idle_seconds.remote(), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError:
            return float("inf")

    def report(self) -> str:
        """Return what the stages said."""
        try:
            return ray.get(self.listener.report.remote(), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            return f"the stages cannot be asked ({type(error).__name__})"
