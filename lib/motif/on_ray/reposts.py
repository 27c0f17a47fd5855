"""Counting reposts with tasks."""

from collections.abc import Callable
from typing import Any

import ray

from motif.artefacts.snapshot import Snapshot
from motif.images import reposts
from motif.images.plan import Request
from motif.on_ray import tasks


def count(
    request: Request, after: Snapshot, *, stall_seconds: float, between: Callable[[], None]
) -> dict[str, dict[str, int]]:
    """Return, per kind of hash, how many images show a picture that is there more than once."""
    watched: Any = {
        "what": "counting reposts",
        "stall_seconds": stall_seconds,
        "between": between,
    }
    shared = ray.put(request)
    calls = ((shared, b, s) for b, s in enumerate(after.buckets) if s.embeddings)
    uris = list(zip(*tasks.each(reposts.write_hashes, calls, **watched), strict=True))
    counts = {}
    for name, files in zip(reposts.HASHES, uris, strict=False):
        shared_files = ray.put(list(files))
        shares = ((shared_files, share) for share in range(request.buckets))
        total = sum(tasks.each(reposts.count_share, shares, **watched), reposts.Reposts())
        counts[name] = {
            "same_creator": total.same_creator,
            "other_creators": total.other_creators,
        }
    return counts
