"""Planning an encoding run with tasks: the driver sees counts, never the rows of the manifest."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from motif import command
from motif.artefacts.snapshot import Snapshot
from motif.errors import InputError
from motif.images import manifest, plan, source
from motif.images.plan import Decision, Partitioned, Request
from motif.on_ray import tasks

log = logging.getLogger(__name__)

Segment = tuple[int, int, int]
"""Bucket, first row, and the row after the last one, of a bucket's rows to encode."""


@dataclass(frozen=True)
class Plan:
    """An encoding run, decided before its first image is fetched."""

    rows: int
    """Of the manifest."""
    rejected_rows: int
    """Of these, the ones without creator or URI."""
    rejected: tuple[str, ...]
    """Their FAILURES rows, in scratch files."""
    images: tuple[str, ...]
    """Partition files of its rows."""
    decisions: tuple[Decision, ...]
    """One per bucket, in order."""
    erased_rows: int = 0
    """Of the manifest's, the ones of creators who were erased, rejected or not."""

    def total(self, count: str) -> int:
        """Return the sum of one of the decisions' counts."""
        return sum(getattr(decision, count) for decision in self.decisions)

    def counts(self) -> dict[str, int]:
        """Return what becomes of the manifest's rows.

        The rows are duplicates + rejected + erased + new + changed + retried + unchanged +
        failed_before; removed images are rows no more.
        """
        names = ("duplicates", "new", "changed", "retried", "unchanged", "failed_before")
        return {
            "rows": self.rows,
            "rejected": self.rejected_rows,
            "erased": self.erased_rows,
            **{name: self.total(name) for name in names},
            "removed": self.total("removed"),
            "restored": self.total("restored"),
        }

    def chunks(self, rows: int) -> list[list[Segment]]:
        """Cut what is to be encoded into chunks of about `rows` images, across buckets."""
        chunks: list[list[Segment]] = []
        room = 0
        for decision in self.decisions:
            start = 0
            while start < decision.pending:
                if not room:
                    chunks.append([])
                    room = rows
                stop = min(start + room, decision.pending)
                chunks[-1].append((decision.bucket, start, stop))
                room -= stop - start
                start = stop
        return chunks

    def sample(self, images: int) -> list[Segment]:
        """Return up to `images` single rows, spread evenly over what is to be encoded."""
        pending = self.total("pending")
        wanted = [pending * k // images for k in range(images)] if pending > images else None
        places = iter(wanted if wanted is not None else range(pending))
        segments, first, place = [], 0, next(places, None)
        for decision in self.decisions:
            while place is not None and place < first + decision.pending:
                segments.append((decision.bucket, place - first, place - first + 1))
                place = next(places, None)
            first += decision.pending
        return segments

    def require_few_removed(self, limit: float) -> None:
        """Refuse a full manifest that lacks much of what is there.

        Raises:
            InputError: More than the fraction `limit` of the images would be removed.
        """
        lost = self.total("lost")
        removed, held = self.total("removed") + lost, self.total("held") + lost
        if removed > limit * held:
            raise InputError(
                f"--manifest full: {removed:,} of {held:,} images are not in the manifest any"
                f" more, a larger fraction than --max-removed-fraction {limit:g}; nothing was"
                " changed: check the manifest, or allow more"
            )

    def require_repairable(self, output: str) -> None:
        """Refuse to drop a damaged file whose images the manifest cannot bring back.

        Raises:
            InputError: Names the file.
        """
        for decision in self.decisions:
            if decision.lost:
                names = ", ".join(f"{output}/{part.name}" for part in decision.damaged)
                raise InputError(
                    f"{names}: damaged, and {decision.lost:,} of its images are not in the"
                    " manifest; nothing was changed: pass a manifest that names all images, with"
                    " --manifest full if images had been removed, or restore the file from a"
                    " backup"
                )


def make(
    request: Request,
    pieces: Sequence[source.Piece],
    before: Snapshot,
    *,
    stall_seconds: float,
    between: Callable[[], None] = lambda: None,
) -> Plan:
    """Partition the manifest, compare every bucket, and add up.

    Raises:
        InputError: The manifest breaks a rule.
        NoProgress: The tasks do not run.
    """
    watched: Any = {"stall_seconds": stall_seconds, "between": between}
    shared = ray.put(request)
    parts: list[Partitioned] = []
    for part in tasks.each(
        plan.partition,
        ((shared, number, group) for number, group in enumerate(source.group(pieces))),
        what="reading the manifest",
        **watched,
    ):
        parts.append(part)
        if len(parts) % 20 == 0:
            log.info("read %d rows of the manifest", sum(p.rows for p in parts))
    rows = sum(part.rows for part in parts)
    manifest.require_rows(rows, request.images)
    if rows == sum(part.rejected_rows for part in parts):
        raise InputError(f"--images {request.images}: no row has both a creator_id and a uri")
    images = sorted(uri for part in parts for uri in part.images)
    if ids := [uri for part in parts for uri in part.ids]:
        _require_ids_of_one(request, shared, images, ids, before, watched)
    files = ray.put(images)
    decisions = tasks.each(
        plan.decide,
        ((shared, bucket, state, files) for bucket, state in enumerate(before.buckets)),
        what="comparing the manifest with what is encoded",
        **watched,
    )
    return Plan(
        rows=rows,
        rejected_rows=sum(part.rejected_rows for part in parts),
        rejected=tuple(sorted(uri for part in parts for uri in part.rejected)),
        images=tuple(images),
        decisions=tuple(sorted(decisions, key=lambda decision: decision.bucket)),
        erased_rows=sum(part.erased_rows for part in parts),
    )


def _require_ids_of_one(
    request: Request,
    shared: Any,
    images: Sequence[str],
    ids: Sequence[str],
    before: Snapshot,
    watched: dict[str, Any],
) -> None:
    """Refuse a manifest whose own ids give one id to images of two creators."""
    what = "comparing image ids"
    held: Iterator[str] = iter(())
    if not request.full:
        calls = ((shared, b, s) for b, s in enumerate(before.buckets) if any(s.parts))
        held = tasks.each(plan.ids_held, calls, what=what, **watched)
    uris = ray.put([*ids, *held])
    calls = ((uris, share) for share in range(request.buckets))
    for clash in tasks.each(plan.find_id_of_two, calls, what=what, **watched):
        if clash is not None and (told := plan.name_id_of_two(request, images, clash)):
            raise InputError(command.printable(told))
