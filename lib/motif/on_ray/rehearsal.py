"""`--dry-run` of encode_images: the plan, and a timed sample of what it would take."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from motif import schemas, storage
from motif.artefacts import staging
from motif.on_ray import estimate, fetch_and_decode, session
from motif.on_ray.preparation import Preparation

_VECTORS = ("embedding", "features")
_OTHER_BYTES = 300  # of the other columns of a row, about


def rehearse(preparation: Preparation, sample: int) -> dict[str, Any]:
    """Plan, time a sample, and return what `--dry-run` prints; writes nothing to stay.

    Args:
        preparation: Of the run.
        sample: Images to time.
    """
    with _folder(preparation) as folder:
        request = preparation.request(folder)
        start = time.perf_counter()
        made = preparation.plan(request)
        plan_seconds = time.perf_counter() - start
        segments = made.sample(sample)
        rows = (
            fetch_and_decode.read_segments(request, segments)
            if segments
            else schemas.IMAGES.empty_table()
        )
    timing = estimate.time_sample(
        rows,
        preparation.encoder,
        limits=preparation.options.limits,
        full_decode=preparation.options.full_decode,
    )
    resources = preparation.resources()
    images = made.total("pending")
    seconds = timing.run_seconds(
        images, cpus=resources.cpus, gpus=resources.gpus, encoders=resources.encoders
    )
    if preparation.options.reads_per_second:
        seconds = max(seconds, images / preparation.options.reads_per_second)
    price = preparation.options.price_per_hour
    vectors = [f.type for f in preparation.settings.schema if f.name in _VECTORS]
    row_bytes = sum(t.list_size * t.value_type.bit_width // 8 for t in vectors) + _OTHER_BYTES
    return {
        "dry_run": True,
        "images_to_do": images,
        "images_already_done": made.total("unchanged") + made.total("staged"),
        "images_failed_before": made.total("failed_before"),
        "images_gone": made.total("removed"),
        **{f"manifest_{name}": count for name, count in made.counts().items()},
        "buckets": request.buckets,
        "space": preparation.settings.space.to_json(),
        "plan_seconds": round(plan_seconds, 3),
        "sampled_images": timing.sampled,
        "sampled_failures": timing.failed,
        "fetch_seconds_per_image": round(timing.fetch_seconds, 5),
        "decode_seconds_per_image": round(timing.decode_seconds, 5),
        "encode_seconds_per_image": round(timing.encode_seconds, 5),
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "estimated_seconds": round(seconds, 1),
        "estimated_cost": round(seconds / 3600 * price, 2) if price is not None else None,
        "estimated_output_bytes": images * row_bytes,
    }


@contextlib.contextmanager
def _folder(preparation: Preparation) -> Iterator[str]:
    """Yield a folder that all nodes see and that is gone afterwards."""
    if session.is_one_node():
        folder = tempfile.mkdtemp(prefix="motif-dry-run-")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    uri = storage.join(preparation.output, staging.FOLDER, f"plan-dry-run-{preparation.run_id}")
    try:
        yield uri
    finally:
        storage.remove(uri)
