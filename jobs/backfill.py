"""The one-off job: a new encoder over the whole archive, beside the one that is live.

ray job submit --working-dir . -- python -m jobs.backfill \
    --images URI --output URI --beside URI --table s3://bucket/db/creators.lance --encoder NAME
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jobs import encode_images, publish_creators, train_same
from motif import command, storage
from motif.artefacts import lock
from motif.artefacts.archive import Archive, chosen
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.lock import Held
from motif.artefacts.lock_holder import Watch
from motif.artefacts.run import Recorder
from motif.errors import GaveWay, InputError
from motif.evaluation import comparison
from motif.evaluation.evaluate import MAX_CREATORS, open_text_encoder
from motif.on_ray import capacity, session
from motif.on_ray.capacity import Capacity
from motif.operations import notify
from motif.operations.deadline import ended_by, parse_duration
from motif.operations.summary import NOTHING_NEW, Summary
from motif.progress import duration
from motif.publishing import commit
from motif.table import TableUri
from motif.table.layout import CANDIDATE

log = logging.getLogger("motif.backfill")

LOOK_SECONDS = 5.0
TELL_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Config(Capacity):
    """Encode all images with another encoder, train, and put a candidate beside what is live.

    It may take days: cut off, or stopped, the same command goes on. Readers notice nothing; at the
    end a report compares the two spaces, and `motif promote` switches.
    """

    images: str
    """As of jobs.encode_images: the whole library."""
    output: str
    """Folder of the new archive, another than the live one. Local or s3://."""
    encoder: str
    """The new one, as of jobs.encode_images."""
    table: str
    """DATABASE/TABLE.lance: the one that is live now; the candidate becomes a version of it."""
    beside: str = ""
    """Archive that jobs.refresh keeps: the backfill pauses while a refresh is at work on it, and
    compares itself with it at the end."""
    cluster_share: float = 0.5
    """Of the cluster's CPUs and GPUs that it may take; the rest is left to other jobs."""
    reads_per_second: float | None = None
    """Objects to read from the store per second at most."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """As of jobs.encode_images."""
    carry: str = ""
    """As of jobs.encode_images."""
    max_failed_fraction: float = 0.1
    """As of jobs.encode_images."""
    adjectives: str = ""
    """As of jobs.publish_creators."""
    attributes: str = ""
    """As of jobs.publish_creators."""
    num_workers: int = 1
    """As of jobs.train_same."""
    test_fraction: float = 0.1
    """As of jobs.train_same; the live model's, for both to be compared on many creators."""
    max_hit_rate_drop: float = 1.0
    """As of jobs.publish_creators; a candidate is looked at by a person, so that by default only
    broken ones are refused."""
    deadline: str = ""
    """End with exit code 7 after so long, such as 5h; the same command goes on."""
    webhook: str = ""
    """Where to post the summary; MOTIF_WEBHOOK_URL does the same."""
    price_per_hour: float | None = None
    """As of jobs.encode_images."""
    endpoint_url: str = ""
    """As of jobs.encode_images."""
    single_writer: bool = False
    """Do without locks: you see to it that nothing else writes there."""
    dry_run: bool = False
    """Say what would be done, how long it would take and what it would cost; write nothing."""
    json: bool = False
    """Print the summary on standard output."""


def main(config: Config) -> dict[str, Any]:
    """Encode with the share that it may have, train, publish a candidate, compare."""
    config.check()
    deadline = parse_duration(config.deadline, "--deadline")
    webhook = notify.webhook_of(config.webhook)
    recorder = Recorder("backfill", dataclasses.replace(config, webhook=notify.redacted(webhook)))
    archive, table = Archive.at(config.output), TableUri.parse(config.table)
    beside = Archive.at(config.beside) if config.beside else None
    session.use_endpoint(config.endpoint_url)
    require_new(archive, beside, table)
    if config.dry_run:
        return command.show_plan(plan_of(config, archive), as_json=config.json)
    summary = Summary(recorder, archive.summary(recorder.run_id), webhook)
    with (
        lock.hold(archive.uri, run_id=recorder.run_id, single_writer=config.single_writer) as held,
        summary.told(),
        ended_by(deadline),
    ):
        others = Others(beside, held)
        encode(config, archive, others, summary)
        train(config, archive, others, summary)
        publish(config, archive, others, summary)
        if beside is not None:
            compare(archive, beside, recorder, summary)
        summary.sentences.append(f"to switch: motif promote --table {config.table}")
    log.info("%s", "; ".join(summary.sentences))
    return storage.read_json(archive.summary(recorder.run_id))


def require_new(archive: Archive, beside: Archive | None, table: TableUri) -> None:
    """Refuse to backfill into what is live.

    Raises:
        InputError: The new archive is the live one, or what is live was made from it.
    """
    commit.require_ours(table)
    if beside is not None and beside.uri == archive.uri:
        raise InputError(f"--output {archive.uri}: name another archive than --beside")
    live = commit.open_tagged(table)
    if live and (live.publish or {}).get("embeddings") == archive.embeddings:
        raise InputError(
            f"--output {archive.uri}: what is live in {table.uri} was made from it already; keep it"
            " up to date with jobs.refresh"
        )


class Others:
    """Work that goes first: refreshes of the archive that is live."""

    def __init__(self, beside: Archive | None, held: Held) -> None:
        self._watch = Watch(beside.uri) if beside is not None else None
        self._held = held
        self._looked = 0.0

    def holder(self) -> str | None:
        """Return who is at work, looked at every few seconds."""
        return self._watch.holder() if self._watch is not None else None

    def interrupt(self) -> None:
        """Stop what is under way if somebody else has begun.

        Raises:
            GaveWay: Somebody has.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if holder := self.holder():
            raise GaveWay(f"gives way to {holder}")

    def wait(self) -> float:
        """Wait until nobody is at work, holding nothing of the cluster; return the seconds."""
        began = told = time.monotonic()
        while holder := self.holder():
            waited = time.monotonic() - began
            if began == told or time.monotonic() - told > TELL_SECONDS:
                session.disconnect()
                told = time.monotonic()
                log.info("paused for %s, since %s", holder, duration(waited))
            self._held.tell({"paused_for": holder})
            time.sleep(LOOK_SECONDS)
        self._held.tell({})
        return time.monotonic() - began

    def when_alone(self, work: Callable[[Callable[[], None]], Any]) -> tuple[Any, float]:
        """Do what can be gone on with, as often as it takes; return its result and the pauses."""
        paused = 0.0
        while True:
            paused += self.wait()
            session.connect()
            try:
                return work(self.interrupt), paused
            except GaveWay as way:
                log.info("%s; what was done is kept", way)
                session.disconnect()


def encode(config: Config, archive: Archive, others: Others, summary: Summary) -> None:
    """Encode the library, in as many pieces as others leave time for."""

    def work(interrupt: Callable[[], None]) -> dict[str, Any]:
        capacity.wait_for(config)
        return encode_images.main(encoding(config, archive), interrupt=interrupt)

    with summary.step("encode") as told:
        record, paused = others.when_alone(work)
        found = record["manifest"]
        told |= {
            "encoded_now": found["encoded_now"],
            "failed_now": found["failed_now"],
            "embedded": record["counts"]["embedded"],
            "paused_seconds": round(paused),
            "images_per_second": record["stages"]["images_per_second"],
            "cost_per_million_images": record["stages"]["cost_per_million_images"],
            "bottleneck": record["stages"]["bottleneck"]["verdict"],
        }
        if found["encoded_now"]:
            summary.did(f"{found['encoded_now']:,} images encoded with {config.encoder}")


def encoding(config: Config, archive: Archive, **more: Any) -> encode_images.Config:
    """Return how images are encoded."""
    return encode_images.Config(
        images=config.images,
        output=archive.embeddings,
        encoder=config.encoder,
        allow=config.allow,
        carry=config.carry,
        max_failed_fraction=config.max_failed_fraction,
        cluster_share=config.cluster_share,
        reads_per_second=config.reads_per_second,
        price_per_hour=config.price_per_hour,
        single_writer=config.single_writer,
        **more,
    )


def train(config: Config, archive: Archive, others: Others, summary: Summary) -> None:
    """Train once on what was encoded; a backfill that goes on keeps its model."""
    if chosen(archive.models()) is not None:
        return
    opened = Embeddings.open(archive.embeddings)
    output = archive.model_on(opened.snapshot.run_id)
    with summary.step("train") as told:
        for folder in archive.unfinished_models():
            if folder != output:
                storage.remove(folder)
        told["paused_seconds"] = round(others.wait())
        session.connect()
        record = train_same.main(
            train_same.Config(
                embeddings=archive.embeddings,
                output=output,
                num_workers=config.num_workers,
                test_fraction=config.test_fraction,
            )
        )
        told |= {"model": output, "architecture": record["architecture"]}
        summary.did(f"a model: {record['architecture']}")


def publish(config: Config, archive: Archive, others: Others, summary: Summary) -> None:
    """Put a candidate beside what is live."""
    model = chosen(archive.models())
    assert model is not None  # trained just now, or before
    with summary.step("publish") as told:
        told |= {"model": model.uri, "paused_seconds": round(others.wait())}
        session.connect()
        record = publish_creators.main(
            publish_creators.Config(
                embeddings=archive.embeddings,
                model=model.uri,
                table=config.table,
                candidate=True,
                adjectives=config.adjectives,
                attributes=config.attributes,
                encoder=config.encoder,
                max_hit_rate_drop=config.max_hit_rate_drop,
                single_writer=config.single_writer,
            )
        )
        told |= {"version": record["table_version"], "creators": record["counts"]["creators"]}
        if record.get("up_to_date"):
            told["outcome"] = NOTHING_NEW
            return
        told["checks"] = {check["name"]: check["told"] for check in record["checks"]}
        summary.did(
            f"version {record['table_version']} with {record['counts']['creators']:,} creators is"
            f" tagged {CANDIDATE}"
        )


def compare(archive: Archive, beside: Archive, recorder: Recorder, summary: Summary) -> None:
    """Write a report of the two spaces side by side."""
    live = chosen(beside.models())
    mine = chosen(archive.models())
    assert mine is not None
    with summary.step("compare") as told:
        if live is None:
            told |= {"outcome": "left out", "because": f"{beside.uri} has no model yet"}
            return
        old, new = side_of(beside, live.uri), side_of(archive, mine.uri)
        try:
            switch = comparison.compare(old, new, max_creators=MAX_CREATORS)
        except InputError as error:
            told |= {"outcome": "left out", "because": str(error)}
            return
        output = archive.evaluation(recorder.run_id)
        page = comparison.render(
            switch, old, new, run_id=recorder.run_id, created_at=recorder.started_at
        )
        storage.write_json(storage.join(output, "metrics.json"), switch.to_metrics())
        storage.write_bytes(storage.join(output, "comparison.html"), page.encode())
        told |= {"report": storage.join(output, "comparison.html"), "verdict": switch.verdict()}
        summary.sentences.append(switch.verdict())
        log.info("open %s", told["report"])


def side_of(archive: Archive, model: str) -> comparison.Side:
    """Open an archive to compare it."""
    opened = Embeddings.open(archive.embeddings)
    encode_texts, note = open_text_encoder(opened)
    if note:
        log.warning("adjectives are left out: %s", note)
    return comparison.Side(opened, Checkpoint.open(model), encode_texts)


def plan_of(config: Config, archive: Archive) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    session.connect()
    capacity.wait_for(config)
    planned = encode_images.main(encoding(config, archive, dry_run=True, json=True))
    done, todo = planned["images_already_done"], planned["images_to_do"]
    seconds = planned["estimated_seconds"]
    return {
        "dry_run": True,
        "images_of_the_archive": done + todo,
        "images_already_done": done,
        "images_to_do": todo,
        "archive_done": f"{done / max(done + todo, 1):.1%}",
        "cluster_share": config.cluster_share,
        "cpus": planned["cpus"],
        "gpus": planned["gpus"],
        "reads_per_second": config.reads_per_second or "no limit",
        "estimated_seconds": seconds,
        "estimated_time": duration(seconds),
        "estimated_cost": planned["estimated_cost"],
        "estimated_output_bytes": planned["estimated_output_bytes"],
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.backfill")
