"""The scheduled job: encode what is new, train when it is due, publish, evaluate, and tell.

ray job submit --working-dir . -- python -m jobs.refresh \
    --images URI --archive URI --table s3://bucket/db/creators.lance
"""

import dataclasses
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

import tyro

from jobs import compact_embeddings, encode_images, evaluate, publish_creators, train_same
from motif import command, storage
from motif.artefacts import lock
from motif.artefacts.archive import Archive, Model, Schedule, chosen
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.run import RUN_FILE, Recorder
from motif.errors import ChecksFailed, InputError
from motif.on_ray import capacity, session
from motif.on_ray.capacity import Capacity
from motif.operations import notify
from motif.operations.deadline import ended_by, parse_duration
from motif.operations.summary import NOTHING_NEW, Summary
from motif.publishing import commit
from motif.table import TableUri, versions

log = logging.getLogger("motif.refresh")


@dataclass(frozen=True, kw_only=True)
class Config(Capacity):
    """Bring the table up to date with the images: what a scheduler starts every night.

    Started twice, the second run ends with exit code 5. Cut off, the next one goes on.
    """

    images: str
    """As `--images` of jobs.encode_images."""
    archive: str
    """Folder of EMBEDDINGS, models, evaluations and summaries. Local or s3://."""
    table: str
    """DATABASE/TABLE.lance: what readers see."""
    encoder: str = "ViT-B-32/laion2b_s34b_b79k"
    """As of jobs.encode_images; fixed by the first refresh of an archive."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """As of jobs.encode_images."""
    carry: str = ""
    """As of jobs.encode_images."""
    manifest: Literal["delta", "full"] = "delta"
    """As of jobs.encode_images."""
    max_failed_fraction: float = 0.1
    """As of jobs.encode_images."""
    retry_failed: tuple[str, ...] | None = ("throttled", "timeout", "unreachable")
    """Images that failed before and are taken up again, by class."""
    adjectives: str = ""
    """As of jobs.publish_creators."""
    attributes: str = ""
    """As of jobs.publish_creators."""
    retrain_every: str = "30d"
    """Train when the newest model is so old; m, h, d, w or `never`."""
    retrain_when_grown: float | None = 0.2
    """Train when the images have grown by this fraction since the newest model."""
    num_workers: int = 1
    """As of jobs.train_same."""
    test_fraction: float = 0.1
    """As of jobs.train_same."""
    evaluate: bool = True
    """Evaluate what was published anew."""
    compact_when_files: int = 32
    """Compact EMBEDDINGS when a bucket has so many files: each refresh adds one."""
    keep_versions: str = "30d"
    """Drop versions of the table that are older, but for tagged ones; or `never`."""
    deadline: str = ""
    """End with exit code 7 after so long, such as 5h; the next refresh goes on."""
    webhook: str = ""
    """Where to post the summary, whatever the outcome; MOTIF_WEBHOOK_URL does the same."""
    price_per_hour: float | None = None
    """As of jobs.encode_images."""
    endpoint_url: str = ""
    """As of jobs.encode_images."""
    single_writer: bool = False
    """Do without locks: you see to it that nothing else writes there."""
    dry_run: bool = False
    """Say what would be done; write nothing."""
    json: bool = False
    """Print the summary on standard output."""

    def schedule(self) -> Schedule:
        """Return when to train.

        Raises:
            InputError: A flag makes no sense.
        """
        self.check()
        if self.retrain_when_grown is not None and not self.retrain_when_grown >= 0:
            raise InputError(f"--retrain-when-grown {self.retrain_when_grown}: expected 0 or more")
        if self.compact_when_files < 2:
            raise InputError(f"--compact-when-files {self.compact_when_files}: at least 2")
        return Schedule(
            every=parse_duration(self.retrain_every, "--retrain-every"),
            when_grown=self.retrain_when_grown,
        )


def main(config: Config) -> dict[str, Any]:
    """Hold the archive's lease, do each step, and leave a summary, whatever the outcome."""
    schedule = config.schedule()
    deadline = parse_duration(config.deadline, "--deadline")
    keep = parse_duration(config.keep_versions, "--keep-versions")
    webhook = notify.webhook_of(config.webhook)
    recorder = Recorder("refresh", dataclasses.replace(config, webhook=notify.redacted(webhook)))
    archive, table = Archive.at(config.archive), TableUri.parse(config.table)
    session.use_endpoint(config.endpoint_url)
    require_own_table(table, archive)
    if config.dry_run:
        return command.show_plan(plan_of(config, archive, table, schedule), as_json=config.json)
    summary = Summary(recorder, archive.summary(recorder.run_id), webhook)
    with (
        lock.hold(archive.uri, run_id=recorder.run_id, single_writer=config.single_writer) as held,
        summary.told(),
        ended_by(deadline),
    ):
        session.connect()
        capacity.wait_for(config)
        encode(config, archive, summary)
        compact(config, archive, summary)
        held.check()
        train(config, archive, schedule, summary)
        held.check()
        refusal = publish(config, archive, summary)
        evaluate_published(config, archive, recorder, summary)
        clean_up(table, keep, summary)
        if refusal is not None:
            raise refusal
    return storage.read_json(archive.summary(recorder.run_id))


def require_own_table(table: TableUri, archive: Archive) -> None:
    """Refuse to put one space in another's place: that is what a promotion does, not a schedule.

    Raises:
        InputError: What is live was made from another archive.
    """
    commit.require_ours(table)
    live = commit.open_tagged(table)
    made_from = ((live.publish if live else None) or {}).get("embeddings", archive.embeddings)
    if made_from != archive.embeddings:
        raise InputError(
            f"--archive {archive.uri}: what is live in {table.uri} was made from {made_from}: name"
            " the archive above it, or another table"
        )


def encode(config: Config, archive: Archive, summary: Summary) -> None:
    """Encode what is new or changed, and try again what failed for the store's sake."""
    with summary.step("encode") as told:
        record = encode_images.main(encoding(config, archive))
        found = record["manifest"]
        failed = sum(found["failed_now"].values())
        told |= {
            **{name: found[name] for name in ("encoded_now", "failed_now", "removed")},
            "embedded": record["counts"]["embedded"],
            "images_per_second": record["stages"]["images_per_second"],
            "bottleneck": record["stages"]["bottleneck"]["verdict"],
        }
        if found["encoded_now"] or found["removed"]:
            summary.did(
                f"{found['encoded_now']:,} images encoded, {failed:,} failed,"
                f" {found['removed']:,} removed"
            )


def encoding(config: Config, archive: Archive, **more: Any) -> encode_images.Config:
    """Return how images are encoded."""
    known = storage.exists(storage.join(archive.embeddings, RUN_FILE))
    return encode_images.Config(
        images=config.images,
        output=archive.embeddings,
        encoder=config.encoder,
        allow=config.allow,
        carry=config.carry,
        manifest=config.manifest,
        max_failed_fraction=config.max_failed_fraction,
        retry_failed=config.retry_failed if known else None,
        price_per_hour=config.price_per_hour,
        single_writer=config.single_writer,
        **more,
    )


def compact(config: Config, archive: Archive, summary: Summary) -> None:
    """Make one file of each bucket's many, once there are many."""
    opened = Embeddings.open(archive.embeddings)
    files = max((len(b.embeddings) for b in opened.snapshot.buckets), default=0)
    if files < config.compact_when_files:
        return
    with summary.step("compact") as told:
        told["files_of_a_bucket"] = files
        compact_embeddings.main(
            compact_embeddings.Config(
                embeddings=archive.embeddings, single_writer=config.single_writer
            )
        )
        summary.did("EMBEDDINGS compacted")


def train(config: Config, archive: Archive, schedule: Schedule, summary: Summary) -> None:
    """Train when it is due; a training that was cut off on the same images goes on."""
    opened = Embeddings.open(archive.embeddings)
    output = archive.model_on(opened.snapshot.run_id)
    due = schedule.due(archive.models(), opened.counts["embedded"])
    unfinished = archive.unfinished_models()
    if not due:
        return
    with summary.step("train") as told:
        told["because"] = due
        for folder in unfinished:
            if folder != output:  # of other images: nobody goes on with it
                storage.remove(folder)
        record = train_same.main(
            train_same.Config(
                embeddings=archive.embeddings,
                output=output,
                num_workers=config.num_workers,
                test_fraction=config.test_fraction,
            )
        )
        told |= {"model": output, "architecture": record["architecture"]}
        summary.did(f"a new model: {record['architecture']}")


def publish(config: Config, archive: Archive, summary: Summary) -> ChecksFailed | None:
    """Publish with the newest model, or, where the checks will not have it, with the one before.

    Returns:
        The refusal of a new model, when the table was published with another one.

    Raises:
        ChecksFailed: The table stays as it was.
    """
    model = chosen(archive.models())
    if model is None:
        raise InputError(f"{archive.uri} has no model that a publish would have; train again")
    try:
        _publish(config, archive, model, summary)
    except ChecksFailed as error:
        if model.uri == _live_model(config):
            raise
        archive.refuse(model.uri, str(error))
        before = chosen(archive.models())
        if before is None:
            raise
        log.warning("%s; publishing with %s", error, before.uri)
        _publish(config, archive, before, summary)
        return error
    return None


def _publish(config: Config, archive: Archive, model: Model, summary: Summary) -> None:
    with summary.step("publish") as told:
        told["model"] = model.uri
        record = publish_creators.main(
            publish_creators.Config(
                embeddings=archive.embeddings,
                model=model.uri,
                table=config.table,
                adjectives=config.adjectives,
                attributes=config.attributes,
                encoder=config.encoder,
                single_writer=config.single_writer,
            )
        )
        told |= {"live_version": record["table_version"], "creators": record["counts"]["creators"]}
        if record.get("up_to_date"):
            told["outcome"] = NOTHING_NEW
            return
        told |= {"mode": record["mode"], "recomputed": record["counts"]["recomputed"]}
        told["checks"] = {check["name"]: check["told"] for check in record["checks"]}
        summary.did(
            f"version {record['table_version']} is live with"
            f" {record['counts']['creators']:,} creators, {told['recomputed']:,} of them recomputed"
        )


def _live_model(config: Config) -> str | None:
    live = commit.open_tagged(TableUri.parse(config.table))
    return ((live.publish if live else None) or {}).get("model")


def evaluate_published(
    config: Config, archive: Archive, recorder: Recorder, summary: Summary
) -> None:
    """Evaluate what was published anew; with too few creators there is nothing to say."""
    published = summary.steps["publish"]
    if not config.evaluate or published["outcome"] == NOTHING_NEW:
        return
    with summary.step("evaluate") as told:
        output = archive.evaluation(recorder.run_id)
        try:
            record = evaluate.main(
                evaluate.Config(
                    embeddings=archive.embeddings,
                    model=published["model"],
                    output=output,
                    encoder=config.encoder,
                )
            )
        except InputError as error:
            told |= {"outcome": "left out", "because": str(error)}
            return
        told |= {"report": storage.join(output, "report.html"), "verdict": record["verdict"]}
        summary.sentences.append(record["verdict"])


def clean_up(table: TableUri, keep: timedelta | None, summary: Summary) -> None:
    """Drop versions of the table that are old, when one was published."""
    if keep is None or summary.steps["publish"]["outcome"] == NOTHING_NEW:
        return
    with summary.step("clean up") as told:
        done = versions.cleanup(table, keep)
        told |= {name: done[name] for name in ("dropped_versions", "bytes_removed")}


def plan_of(
    config: Config, archive: Archive, table: TableUri, schedule: Schedule
) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    planned = encode_images.main(encoding(config, archive, dry_run=True, json=True))
    wanted = ("images_to_do", "images_already_done", "estimated_seconds", "estimated_cost")
    held = planned["images_already_done"] + planned["images_to_do"]
    models, live = archive.models(), commit.open_tagged(table)
    newest = chosen(models)
    return {
        "dry_run": True,
        **{name: planned[name] for name in wanted},
        "train": schedule.due(models, held) or "no",
        "model": newest.uri if newest else None,
        "table": table.uri,
        "live_version": live.version if live else None,
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.refresh")
