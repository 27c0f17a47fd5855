"""What a run of encode_images knows before it changes anything: manifest, output, settings."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from motif import schemas
from motif.artefacts import erased, snapshot, update
from motif.artefacts.run import State
from motif.artefacts.snapshot import Snapshot
from motif.encoder.encoder import Encoder
from motif.errors import InputError
from motif.images import manifest
from motif.images import plan as planning
from motif.images.fetch import FetchLimits
from motif.images.plan import Request
from motif.images.source import Piece
from motif.on_ray import plan
from motif.on_ray.encode import EncoderSettings, Resources
from motif.on_ray.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the flags of encode_images say about the work; see there."""

    images: str
    carry: tuple[str, ...]
    full: bool
    max_removed_fraction: float
    retry: tuple[str, ...] | None
    max_failed_fraction: float
    limits: FetchLimits
    batch_size: int
    encoders_per_gpu: int
    float32: bool
    compile: bool
    full_decode: bool
    buckets: int
    verify: bool
    overwrite: bool
    stall_seconds: float
    price_per_hour: float | None
    cluster_share: float = 1.0
    reads_per_second: float | None = None


class Preparation:
    """A run, laid out: what it reads, what is at its output, and what must not change."""

    def __init__(
        self,
        *,
        output: str,
        found: State,
        record: dict[str, Any] | None,
        options: Options,
        pieces: list[Piece],
        encoder: Encoder,
        encoder_name: str,
        run_id: str,
    ) -> None:
        """Check that the manifest's rows may go into the output.

        Args:
            output: Folder of the artefact, absolute.
            found: What is there, from `update.look`.
            record: Its run.json, if the run builds on it.
            options: The flags.
            pieces: Of the manifest, as `source.find` lays it out.
            encoder: Loaded in this process, to know its space and to time a sample; with features
                if they are wanted.
            encoder_name: `--encoder`, absolute.
            run_id: Of the run.

        Raises:
            InputError: The manifest has other columns than the output.
            SpaceError: The output is of another space.
        """
        self.output, self.found, self.options = output, found, options
        self.record, self.run_id = record, run_id
        self.encoder, self.encoder_name = encoder, encoder_name
        self._pieces = pieces
        self._carried = manifest.carried_fields(self._pieces, options.carry)
        schema = schemas.embeddings(
            encoder.space.dim,
            features_dim=encoder.features_dim,
            carried=self._carried,
        )
        before = Snapshot.read(output, record["snapshot"]) if record else None
        wanted = planning.choose_buckets(
            sum(piece.weight_rows for piece in self._pieces), options.buckets
        )
        if before is None:
            buckets = wanted
            if found is State.UNFINISHED and not options.buckets:
                buckets = update.planned_buckets(output) or wanted
            before = snapshot.empty(buckets, schema)
        elif options.buckets not in (0, len(before.buckets)):
            raise InputError(
                f"--buckets {options.buckets}: {output} has {len(before.buckets)}; change that with"
                " python -m jobs.compact_embeddings"
            )
        self.before = before
        self.settings = update.Settings(encoder.space, schema, len(before.buckets))
        if record:
            update.require_compatible(record, before, self.settings, output)

    def request(self, scratch: str) -> Request:
        """Return what all tasks of the run are told; `scratch` is a folder of its own."""
        return Request(
            images=self.options.images,
            output=self.output,
            scratch=scratch,
            # A space allows these two to differ, but the rows of one run should share them.
            staging=self.settings.staging_folder(
                self.output, float32=self.options.float32, full_decode=self.options.full_decode
            ),
            run_id=self.run_id,
            buckets=len(self.before.buckets),
            schema=self.settings.schema,
            carried=tuple(self._carried),
            full=self.options.full,
            retry=self.options.retry,
            verify=self.options.verify,
            erased=erased.load(self.output),
        )

    def plan(self, request: Request, between: Callable[[], None] = lambda: None) -> Plan:
        """Compare the manifest with what is there.

        Raises:
            InputError: The manifest breaks a rule, or images would be lost.
        """
        made = plan.make(
            request,
            self._pieces,
            self.before,
            stall_seconds=self.options.stall_seconds,
            between=between,
        )
        counts = made.counts()
        log.info(
            "%d rows of %s: %d new, %d changed, %d retried, %d there already, %d failed before,"
            " %d duplicates, %d rejected, %d erased, %d removed; %d to encode, %d encoded by a run"
            " cut off",
            *(counts["rows"], self.options.images, counts["new"], counts["changed"]),
            *(counts["retried"], counts["unchanged"], counts["failed_before"]),
            *(counts["duplicates"], counts["rejected"], counts["erased"], counts["removed"]),
            *(made.total("pending"), made.total("staged")),
        )
        self.require_little_lost(made)
        # The tasks' own words about it stay in Ray's log folder.
        for part in (part for decision in made.decisions for part in decision.damaged):
            log.warning(
                "%s/%s is damaged or gone; its images are encoded again", self.output, part.name
            )
        return made

    def require_little_lost(self, made: Plan) -> None:
        """Refuse a plan by which images would be lost, or too many removed.

        Raises:
            InputError: Says which.
        """
        if self.options.full:
            made.require_few_removed(self.options.max_removed_fraction)
        else:
            made.require_repairable(self.output)

    def resources(self) -> Resources:
        """Return what the cluster has for the run."""
        return Resources.of_cluster(
            encoders_per_gpu=self.options.encoders_per_gpu, share=self.options.cluster_share
        )

    def encoder_settings(self) -> EncoderSettings:
        """Return how each actor loads its encoder."""
        return EncoderSettings(
            encoder=self.encoder_name,
            space=self.settings.space,
            float32=self.options.float32,
            compile=self.options.compile,
            features=self.encoder.features_dim is not None,
        )
