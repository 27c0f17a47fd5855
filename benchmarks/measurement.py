"""One line of a benchmark's result, and the machine that it was measured on."""

import functools
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from motif.command import split_names


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A value, the bar that it must pass, and the figures that it comes from."""

    part: str
    name: str
    value: float
    """A ratio, or seconds or GB where the bar is absolute."""
    unit: str = "ratio"
    at_least: float | None = None
    at_most: float | None = None
    """The bar; without one, the figures are only shown."""
    holds: bool = True
    """What must be true besides, such as that no image is lost."""
    figures: dict[str, Any]

    def show(self) -> None:
        """Print it as one JSON object on one line."""
        passed = None
        bar = None
        if self.at_least is not None:
            bar, passed = f">= {self.at_least:g}", self.holds and self.value >= self.at_least
        elif self.at_most is not None:
            bar, passed = f"<= {self.at_most:g}", self.holds and self.value <= self.at_most
        line = {
            "part": self.part,
            "name": self.name,
            self.unit: round(self.value, 4),
            "bar": bar,
            "pass": passed,
            "figures": self.figures,
            "machine": machine(),
            "command": " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def show_parts(
    parts: Mapping[str, Callable[[], Iterator[Measurement]]], *, only: str, cache: Path
) -> None:
    """Measure the parts named in `only`, in its order, and print what they find."""
    chosen = split_names(only)
    if unknown := sorted(set(chosen) - set(parts)):
        sys.exit(f"error: --only {unknown[0]}: expected some of {', '.join(parts)}")
    cache.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        for measurement in parts[name]():
            measurement.show()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and all values in the order in which they were measured."""
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
        "all": [round(value, 3) for value in values],
    }


def machine() -> dict[str, Any]:
    """Return what a figure depends on; the load says whether others were at work."""
    return {**_shape(), "load_1_minute": round(os.getloadavg()[0], 1)}


@functools.cache
def _shape() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": _model_name(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "gpu": gpu,
        "torch": torch.__version__,
    }


def _model_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
