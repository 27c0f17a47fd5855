"""What Prometheus finds on Ray's metrics port while a job runs; deploy/grafana shows these.

Ray puts `ray_` before each name and, behind a counter's, `_total`.
"""

import functools
from dataclasses import dataclass

import ray.util.metrics


@dataclass(frozen=True)
class Metric:
    """A number by labels."""

    name: str
    description: str
    labels: tuple[str, ...] = ()
    counts: bool = True
    """Whether it only grows; else it is what is so now."""

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}{'_total' if self.counts else ''}"


IMAGES = Metric("motif_images", "Images, `embedded` or `failed`.", ("outcome",))
FAILURES = Metric("motif_failures", "Images that failed, by class.", ("error_class",))
BYTES = Metric("motif_bytes", "Bytes of image files that were read.")
STAGE_SECONDS = Metric("motif_stage_seconds", "Busy seconds of a stage's processes.", ("stage",))
PLANNED = Metric("motif_images_planned", "Images that the run has to do.", counts=False)
WAITING = Metric("motif_images_waiting", "Images that are not done yet.", counts=False)
ENCODERS = Metric("motif_encoders", "Encoder processes that the run began with.", counts=False)
VERSION = Metric("motif_table_version", "Version that readers see.", ("table",), counts=False)
PUBLISHED = Metric(
    "motif_table_published_timestamp_seconds",
    "When the version that readers see was published, in seconds since 1970.",
    ("table",),
    counts=False,
)
ALL = (IMAGES, FAILURES, BYTES, STAGE_SECONDS, PLANNED, WAITING, ENCODERS, VERSION, PUBLISHED)


def add(metric: Metric, amount: float, **labels: str) -> None:
    """Let a counter grow."""
    if amount > 0:
        _counter(metric).inc(amount, tags=labels)


def show(metric: Metric, value: float, **labels: str) -> None:
    """Say what is so now."""
    _gauge(metric).set(value, tags=labels)


@functools.cache
def _counter(metric: Metric) -> ray.util.metrics.Counter:
    return ray.util.metrics.Counter(metric.name, metric.description, metric.labels)


@functools.cache
def _gauge(metric: Metric) -> ray.util.metrics.Gauge:
    return ray.util.metrics.Gauge(metric.name, metric.description, metric.labels)
