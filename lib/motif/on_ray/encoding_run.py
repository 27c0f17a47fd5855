"""One run of encode_images on the cluster: plan, encode, settle, commit."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import ray

from motif import storage
from motif.artefacts import run, staging, update
from motif.artefacts.lock import Held
from motif.artefacts.snapshot import Bucket, Snapshot
from motif.errors import ContractError, InputError, MotifError, TooManyFailures
from motif.images import plan as planning
from motif.images import settle
from motif.images.plan import Request
from motif.on_ray import encode, reposts, tasks
from motif.on_ray.encode import Resources
from motif.on_ray.plan import Plan
from motif.on_ray.preparation import Preparation
from motif.progress import Progress

log = logging.getLogger(__name__)

# A row that was staged and then lost, such as in a file that was damaged since, is encoded again.
ATTEMPTS = 3
HELD_THAT_COUNT = 1000
LOCK_CHECK_SECONDS = 30.0


class EncodingRun:
    """A run, from its plan to the record that it leaves."""

    def __init__(
        self,
        preparation: Preparation,
        recorder: run.Recorder,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self._preparation, self._recorder = preparation, recorder
        self._interrupt = interrupt
        self._progress: Progress | None = None

    def perform(self, held: Held) -> dict[str, Any]:
        """Do it, and return run.json.

        Raises:
            MotifError: What the user can mend.
        """
        preparation, output = self._preparation, self._preparation.output
        options, record = preparation.options, preparation.record or {}
        current = update.current(output)
        # Between the first look and the lock another run may have come and gone.
        if (
            not options.overwrite
            and (current.run_id if current else "") != preparation.before.run_id
        ):
            raise InputError(f"{output} was changed by another run; run the same command again")
        update.prepare(output, preparation.found, preparation.settings, overwrite=options.overwrite)
        update.sweep(output, current)
        scratch = storage.join(output, staging.FOLDER, f"plan-{self._recorder.run_id}")
        request = preparation.request(scratch)
        check_lock = _now_and_then(held.check, LOCK_CHECK_SECONDS)

        def between() -> None:
            self._interrupt()
            if self._progress is not None:
                held.tell(self._progress.told())
            check_lock()

        with self._recorder.timed("plan"):
            try:
                made = preparation.plan(request, between)
            except MotifError:
                update.discard_plan(output, scratch)
                raise
        update.claim(output, preparation.found, preparation.settings, overwrite=options.overwrite)
        states, settled, progress = self._encode_and_settle(request, made, between)
        failed = sum((Counter(one.failed_by_class) for one in settled), Counter())
        self._require_few_failures(made, failed, settled)
        after = Snapshot(
            run_id=self._recorder.run_id,
            schema=preparation.settings.schema,
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
            found = record.get("reposts")
            # The hashes of all images are read for it, so not when they are what they were.
            if found is None or made.total("touched"):
                found = reposts.count(
                    request, after, stall_seconds=options.stall_seconds, between=between
                )
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
                **({"erased": made.erased_rows} if made.erased_rows else {}),
            },
            manifest={
                **made.counts(),
                "encoded_now": sum(one.embedded for one in settled),
                "failed_now": dict(sorted(failed.items())),
                "encoded_by_a_run_cut_off": made.total("staged"),
                "damaged_files": [p.name for d in made.decisions for p in d.damaged],
            },
            reposts=found,
            space=preparation.settings.space.to_json(),
            encoder=preparation.encoder_name,
            precision=sorted(progress.precisions.union(record.get("precision", ()))),
            stages=summary,
        )

    def ending(self, record: dict[str, Any]) -> str:
        """Return the last line of a run, for a person."""
        counts, now = record["counts"], record["manifest"]
        classes = ", ".join(f"{name} {count:,}" for name, count in now["failed_now"].items())
        return (
            f"{self._preparation.output}: {now['encoded_now']:,} encoded,"
            f" {sum(now['failed_now'].values()):,} failed{f' ({classes})' if classes else ''},"
            f" {now['unchanged']:,} were there,"
            f" {now['removed']:,} removed; it holds {counts['embedded']:,} images of"
            f" {counts['creators']:,} creators and {counts['failed']:,} failures;"
            f" {record['stages']['bottleneck']['verdict']}"
        )

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
        limit = self._preparation.options.max_failed_fraction
        return (limit * (judged - retried) + retried) / max(judged, 1)

    def _begun(self, made: Plan, pending: int, resources: Resources) -> Progress:
        return Progress(
            planned=pending,
            judged=self._judged(made),
            cpus=resources.cpus,
            gpus=resources.gpus,
            encoders=resources.encoders,
            writers=resources.writers,
            price_per_hour=self._preparation.options.price_per_hour,
            max_failed_fraction=self._limit(made),
            there_already=made.total("held") + made.total("staged"),
        )

    def _encode_and_settle(
        self,
        request: Request,
        made: Plan,
        between: Callable[[], None],
    ) -> tuple[list[Bucket], list[settle.Settled], Progress]:
        """Encode what is to do, then settle the buckets; what was lost on the way, once more."""
        preparation, resources = self._preparation, self._preparation.resources()
        stall_seconds, before = preparation.options.stall_seconds, preparation.before
        shared = ray.put(request)
        progress, missing = None, 0
        states = list(before.buckets)
        settled: list[settle.Settled] = []
        decisions = [decision for decision in made.decisions if decision.touched]
        for _ in range(ATTEMPTS):
            pending = sum(decision.pending for decision in decisions)
            work = self._progress = self._begun(made, pending, resources)
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
                    ((shared, d, before.buckets[d.bucket], now) for d in decisions),
                    what="settling buckets",
                    stall_seconds=stall_seconds,
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
                    ((shared, one.bucket, before.buckets[one.bucket], made.images) for one in lost),
                    what="planning again",
                    stall_seconds=stall_seconds,
                    between=between,
                )
            )
            preparation.require_little_lost(replace(made, decisions=tuple(decisions)))
        raise ContractError(
            f"{preparation.output}: {missing:,} images were encoded {ATTEMPTS} times and are not"
            " in staging; something else deletes or damages files there"
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
        preparation, options = self._preparation, self._preparation.options
        batch = resources.batch_size(options.batch_size)
        chunks = made.chunks(resources.chunk_rows(pending, batch))
        log.info(
            "encoding %d images with %s into %s, on %d CPUs and %d GPUs",
            *(pending, preparation.encoder_name, preparation.output),
            *(resources.cpus, resources.gpus),
        )
        encode.run_pipeline(
            request,
            chunks,
            progress,
            settings=preparation.encoder_settings(),
            resources=resources,
            batch_size=batch,
            part_rows=resources.part_rows(pending),
            limits=options.limits,
            full_decode=options.full_decode,
            reads_per_second=options.reads_per_second,
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
        limit = self._preparation.options.max_failed_fraction
        total = made.total("settle") + made.rejected_rows
        common, times = (failed + Counter(invalid_row=made.rejected_rows)).most_common(1)[0]
        examples = (one.examples[common] for one in settled if common in one.examples)
        example = next((f", such as {text}" for text in examples), "")
        raise TooManyFailures(
            f"{count:,} of {total:,} images failed, more than --max-failed-fraction {limit:g}"
            f" ({times:,} of class {common}{example}); EMBEDDINGS are not changed: mend the input"
            " and run the same command again, or allow more failures"
        )


def _now_and_then(call: Callable[[], None], seconds: float) -> Callable[[], None]:
    """Return a function that calls `call`, but not more often than each `seconds`."""
    last = time.monotonic()

    def between() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return between
