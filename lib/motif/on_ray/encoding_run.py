"""One run of encode_images on the cluster: plan, encode, settle, commit."""

import contextlib
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import ray

from motif import schemas, storage
from motif.artefacts import run, snapshot, staging, update
from motif.artefacts.lock import Held
from motif.artefacts.run import State
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.encoder.encoder import Encoder
from motif.errors import ContractError, InputError, MotifError, TooManyFailures
from motif.images import manifest, reposts, settle, source
from motif.images import plan as planning
from motif.images.fetch import FetchLimits
from motif.images.plan import Request
from motif.on_ray import encode, estimate, fetch_and_decode, plan, session, tasks
from motif.on_ray.encode import EncoderSettings, Resources
from motif.on_ray.plan import Plan
from motif.progress import Progress

log = logging.getLogger(__name__)

# A row that was staged and then lost, such as in a file that was damaged since, is encoded again.
ATTEMPTS = 3
HELD_THAT_COUNT = 1000
LOCK_CHECK_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the flags of encode_images say about the work; see there."""

    images: str
    carry: tuple[str, ...]
    features: bool
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


class EncodingRun:
    """A run, from what is at its output to the record that it leaves."""

    def __init__(
        self,
        *,
        output: str,
        found: State,
        record: dict[str, Any] | None,
        options: Options,
        encoder: Encoder,
        encoder_name: str,
        recorder: run.Recorder,
    ) -> None:
        """Lay out the manifest and check that its rows may go into the output.

        Args:
            output: Folder of the artefact, absolute.
            found: What is there, from `update.look`.
            record: Its run.json, if the run builds on it.
            options: The flags.
            encoder: Loaded in this process, to know its space and to time a sample.
            encoder_name: `--encoder`, absolute.
            recorder: Of the run.

        Raises:
            InputError: The manifest is not there, or has other columns than the output.
            SpaceError: The output is of another space.
        """
        self._output, self._found, self._options = output, found, options
        self._record = record
        self._encoder, self._encoder_name, self._recorder = encoder, encoder_name, recorder
        self._pieces = source.find(options.images)
        self._carried = manifest.carried_fields(self._pieces, options.carry)
        schema = schemas.embeddings(
            encoder.space.dim,
            features_dim=encoder.features_dim if options.features else None,
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
        self._before = before
        self._settings = update.Settings(encoder.space, schema, len(before.buckets))
        if record:
            update.require_compatible(record, before, self._settings, output)

    def rehearse(self, sample: int) -> dict[str, Any]:
        """Plan, time a sample, and return what `--dry-run` prints; writes nothing to stay."""
        with self._rehearsal_folder() as folder:
            request = self._request(folder, self._staged())
            with self._recorder.timed("plan"):
                made = self._plan(request)
            segments = made.sample(sample)
            rows = (
                fetch_and_decode.read_segments(request, segments)
                if segments
                else schemas.IMAGES.empty_table()
            )
        timing = estimate.time_sample(
            rows, self._encoder, limits=self._options.limits, full_decode=self._options.full_decode
        )
        resources = Resources.of_cluster(encoders_per_gpu=self._options.encoders_per_gpu)
        images = made.total("pending")
        seconds = timing.run_seconds(
            images, cpus=resources.cpus, gpus=resources.gpus, encoders=resources.encoders
        )
        price = self._options.price_per_hour
        width = sum(f.type.list_size for f in self._settings.schema if f.name in _VECTORS)
        return {
            "dry_run": True,
            "images_to_do": images,
            "images_already_done": made.total("unchanged") + made.total("staged"),
            "images_failed_before": made.total("failed_before"),
            "images_gone": made.total("removed"),
            **{f"manifest_{name}": count for name, count in made.counts().items()},
            "buckets": request.buckets,
            "space": self._settings.space.to_json(),
            "plan_seconds": self._recorder.seconds["plan"],
            "sampled_images": timing.sampled,
            "sampled_failures": timing.failed,
            "fetch_seconds_per_image": round(timing.fetch_seconds, 5),
            "decode_seconds_per_image": round(timing.decode_seconds, 5),
            "encode_seconds_per_image": round(timing.encode_seconds, 5),
            "cpus": resources.cpus,
            "gpus": resources.gpus,
            "estimated_seconds": round(seconds, 1),
            "estimated_cost": round(seconds / 3600 * price, 2) if price is not None else None,
            "estimated_output_bytes": images * (width * 4 + 300),
        }

    def perform(self, held: Held) -> dict[str, Any]:
        """Do it, and return run.json.

        Raises:
            MotifError: What the user can mend.
        """
        options, output = self._options, self._output
        current = update.current(output)
        # Between the first look and the lock another run may have come and gone.
        if not options.overwrite and (current.run_id if current else "") != self._before.run_id:
            raise InputError(f"{output} was changed by another run; run the same command again")
        staged = update.prepare(
            output,
            self._found,
            self._settings,
            overwrite=options.overwrite,
            variant=self._variant(),
        )
        update.sweep(output, current)
        scratch = storage.join(output, staging.FOLDER, f"plan-{self._recorder.run_id}")
        request = self._request(scratch, staged)
        between = _now_and_then(held.check, LOCK_CHECK_SECONDS)
        with self._recorder.timed("plan"):
            try:
                made = self._plan(request, between)
            except MotifError:
                update.discard_plan(output, scratch)
                raise
        update.claim(output, self._found, self._settings, overwrite=options.overwrite)
        resources = Resources.of_cluster(encoders_per_gpu=self._options.encoders_per_gpu)
        states, settled, progress = self._encode_and_settle(request, made, resources, between)
        failed = sum((Counter(one.failed_by_class) for one in settled), Counter())
        self._require_few_failures(made, failed, settled)
        after = Snapshot(
            run_id=self._recorder.run_id,
            schema=self._settings.schema,
            buckets=tuple(states),
            rejected=tuple(
                tasks.each(
                    planning.keep_rejected,
                    ((request, uri) for uri in made.rejected),
                    what="keeping rejected rows",
                    stall_seconds=options.stall_seconds,
                    between=between,
                )
            ),
            rejected_rows=made.rejected_rows,
        )
        summary = progress.summary()
        with self._recorder.timed("reposts"):
            found = self._record.get("reposts") if self._record else None
            # The hashes of all images are read for it, so not when they are what they were.
            if found is None or made.total("touched"):
                found = self._count_reposts(request, after, between)
        return update.commit(
            output,
            self._recorder,
            after,
            current,
            check=held.check,
            counts={
                **after.counts(),
                "rows": made.rows,
                "duplicates": made.total("duplicates"),
            },
            manifest={
                **made.counts(),
                "encoded_now": sum(one.embedded for one in settled),
                "failed_now": dict(sorted(failed.items())),
                "encoded_by_a_run_cut_off": made.total("staged"),
                "damaged_files": [p.name for d in made.decisions for p in d.damaged],
            },
            reposts=found,
            space=self._settings.space.to_json(),
            encoder=self._encoder_name,
            precision=sorted(progress.precisions.union((self._record or {}).get("precision", ()))),
            stages=summary,
        )

    def ending(self, record: dict[str, Any]) -> str:
        """Return the last line of a run, for a person."""
        counts, now = record["counts"], record["manifest"]
        classes = ", ".join(f"{name} {count:,}" for name, count in now["failed_now"].items())
        return (
            f"{self._output}: {now['encoded_now']:,} encoded,"
            f" {sum(now['failed_now'].values()):,} failed{f' ({classes})' if classes else ''},"
            f" {now['unchanged']:,} were there,"
            f" {now['removed']:,} removed; it holds {counts['embedded']:,} images of"
            f" {counts['creators']:,} creators and {counts['failed']:,} failures;"
            f" {record['stages']['bottleneck']['verdict']}"
        )

    def _variant(self) -> dict[str, Any]:
        """Return settings that a space allows to differ, but one run's rows should share."""
        return {"float32": self._options.float32, "full_decode": self._options.full_decode}

    def _staged(self) -> str:
        return staging.folder_of(self._output, {**self._settings.to_json(), **self._variant()})

    def _request(self, scratch: str, staged: str) -> Request:
        return Request(
            images=self._options.images,
            output=self._output,
            scratch=scratch,
            staging=staged,
            run_id=self._recorder.run_id,
            buckets=len(self._before.buckets),
            schema=self._settings.schema,
            carried=tuple(self._carried),
            full=self._options.full,
            retry=self._options.retry,
            verify=self._options.verify,
        )

    def _plan(self, request: Request, between: Callable[[], None] = lambda: None) -> Plan:
        made = plan.make(
            request,
            self._pieces,
            self._before,
            stall_seconds=self._options.stall_seconds,
            between=between,
        )
        counts = made.counts()
        log.info(
            "%d rows of %s: %d new, %d changed, %d retried, %d there already, %d failed before,"
            " %d duplicates, %d rejected, %d removed; %d to encode, %d encoded by a run cut off",
            *(counts["rows"], self._options.images, counts["new"], counts["changed"]),
            *(counts["retried"], counts["unchanged"], counts["failed_before"]),
            *(counts["duplicates"], counts["rejected"], counts["removed"]),
            *(made.total("pending"), made.total("staged")),
        )
        self._require_little_lost(made)
        # The tasks' own words about it stay in Ray's log folder.
        for part in (part for decision in made.decisions for part in decision.damaged):
            log.warning(
                "%s/%s is damaged or gone; its images are encoded again", self._output, part.name
            )
        return made

    def _require_little_lost(self, made: Plan) -> None:
        if self._options.full:
            made.require_few_removed(self._options.max_removed_fraction)
        else:
            made.require_repairable(self._output)

    def _judged(self, made: Plan) -> int:
        """Return how many images --max-failed-fraction is a fraction of.

        Images that are there already count, up to a thousand: a small nightly run must not fail
        for a handful of bad ones.
        """
        held = min(made.total("held"), HELD_THAT_COUNT)
        return made.total("settle") + made.rejected_rows + held

    def _limit(self, made: Plan) -> float:
        """Return the fraction that may fail: images that are retried may all fail again."""
        judged, retried = self._judged(made), made.total("retried")
        limit = self._options.max_failed_fraction
        return (limit * (judged - retried) + retried) / max(judged, 1)

    def _progress(self, made: Plan, pending: int, resources: Resources) -> Progress:
        return Progress(
            planned=pending,
            judged=self._judged(made),
            cpus=resources.cpus,
            gpus=resources.gpus,
            encoders=resources.encoders,
            price_per_hour=self._options.price_per_hour,
            max_failed_fraction=self._limit(made),
        )

    def _encode_and_settle(
        self,
        request: Request,
        made: Plan,
        resources: Resources,
        between: Callable[[], None],
    ) -> tuple[list[Bucket], list[settle.Settled], Progress]:
        """Encode what is to do, then settle the buckets; what was lost on the way, once more."""
        progress, missing = None, 0
        states = list(self._before.buckets)
        settled: list[settle.Settled] = []
        decisions = [decision for decision in made.decisions if decision.touched]
        for _ in range(ATTEMPTS):
            pending = sum(decision.pending for decision in decisions)
            work = self._progress(made, pending, resources)
            with contextlib.closing(work):
                if pending:
                    with self._recorder.timed("encode"):
                        todo = replace(made, decisions=tuple(decisions))
                        self._encode(request, todo, pending, resources, work, between)
            progress = progress or work  # what a second attempt mends says little about the run
            with self._recorder.timed("settle"):
                lost = []
                now = datetime.now(UTC)
                for one in tasks.each(
                    settle.settle,
                    ((request, d, self._before.buckets[d.bucket], now) for d in decisions),
                    what="settling buckets",
                    stall_seconds=self._options.stall_seconds,
                    between=between,
                ):
                    states[one.bucket] = one.state
                    (lost if one.missing else settled).append(one)
            if not lost:
                return states, settled, progress
            missing = sum(one.missing for one in lost)
            log.warning("%d encoded images were lost in staging; encoding them again", missing)
            decisions = list(
                tasks.each(
                    planning.decide,
                    (
                        (request, one.bucket, self._before.buckets[one.bucket], made.images)
                        for one in lost
                    ),
                    what="planning again",
                    stall_seconds=self._options.stall_seconds,
                    between=between,
                )
            )
            self._require_little_lost(replace(made, decisions=tuple(decisions)))
        raise ContractError(
            f"{self._output}: {missing:,} images were encoded {ATTEMPTS} times and are not in"
            " staging; something else deletes or damages files there"
        )

    def _encode(
        self,
        request: Request,
        made: Plan,
        pending: int,
        resources: Resources,
        progress: Progress,
        between: Callable[[], None],
    ) -> None:
        options = self._options
        batch = resources.batch_size(options.batch_size)
        chunks = made.chunks(resources.chunk_rows(pending, batch))
        log.info(
            "encoding %d images with %s into %s, on %d CPUs and %d GPUs",
            *(pending, self._encoder_name, self._output, resources.cpus, resources.gpus),
        )
        encode.run_pipeline(
            request,
            chunks,
            progress,
            settings=EncoderSettings(
                encoder=self._encoder_name,
                space=self._settings.space,
                float32=options.float32,
                compile=options.compile,
                features=options.features,
            ),
            resources=resources,
            batch_size=batch,
            part_rows=resources.part_rows(pending),
            limits=options.limits,
            full_decode=options.full_decode,
            stall_seconds=options.stall_seconds,
            between=between,
        )

    def _require_few_failures(
        self, made: Plan, failed: Counter[str], settled: list[settle.Settled]
    ) -> None:
        """Judge the whole run, now that every image is settled.

        Raises:
            TooManyFailures: More than the limit failed.
        """
        count = failed.total() + made.rejected_rows
        if count <= self._limit(made) * self._judged(made):
            return
        limit = self._options.max_failed_fraction
        total = made.total("settle") + made.rejected_rows
        common, times = (failed + Counter(invalid_row=made.rejected_rows)).most_common(1)[0]
        examples = (one.examples[common] for one in settled if common in one.examples)
        example = next((f", such as {text}" for text in examples), "")
        raise TooManyFailures(
            f"{count:,} of {total:,} images failed, more than --max-failed-fraction {limit:g}"
            f" ({times:,} of class {common}{example}); EMBEDDINGS are not changed: mend the input"
            " and run the same command again, or allow more failures"
        )

    def _count_reposts(
        self, request: Request, after: Snapshot, between: Callable[[], None]
    ) -> dict[str, dict[str, int]]:
        watched: Any = {
            "what": "counting reposts",
            "stall_seconds": self._options.stall_seconds,
            "between": between,
        }
        shared = ray.put(request)
        calls = ((shared, b, s) for b, s in enumerate(after.buckets) if s.embeddings)
        uris = list(zip(*tasks.each(reposts.write_hashes, calls, **watched), strict=True))
        counts = {}
        for name, files in zip(reposts.HASHES, uris, strict=False):
            shares = ((list(files), share) for share in range(request.buckets))
            total = sum(tasks.each(reposts.count_share, shares, **watched), reposts.Reposts())
            counts[name] = {
                "same_creator": total.same_creator,
                "other_creators": total.other_creators,
            }
        return counts

    @contextlib.contextmanager
    def _rehearsal_folder(self) -> Iterator[str]:
        """Yield a folder that all nodes see and that is gone afterwards."""
        if session.is_one_node():
            folder = tempfile.mkdtemp(prefix="motif-dry-run-")
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
        uri = storage.join(self._output, staging.FOLDER, f"plan-dry-run-{self._recorder.run_id}")
        try:
            yield uri
        finally:
            storage.remove(uri)


_VECTORS = ("embedding", "features")


def _now_and_then(call: Callable[[], None], seconds: float) -> Callable[[], None]:
    """Return a function that calls `call`, but not more often than each `seconds`."""
    last = time.monotonic()

    def between() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return between
