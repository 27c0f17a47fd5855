"""One publish from beginning to end: draft, fit or keep the population, commit, check, go live."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import adjectives, schemas, storage
from motif.artefacts import erased
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.lock import Held
from motif.artefacts.run import Recorder
from motif.errors import ChecksFailed
from motif.on_ray import metrics, publish
from motif.publishing import changes, checks, commit, plan, population, rows, staging
from motif.publishing.attributes import Attributes
from motif.publishing.changes import Changes
from motif.publishing.checks import Check
from motif.publishing.commit import Tagged
from motif.publishing.directions import Directions, dependence_in_short
from motif.publishing.plan import Mode
from motif.publishing.population import Population
from motif.publishing.rows import Completion, HeldOut
from motif.table.layout import LIVE, TableUri

log = logging.getLogger("motif.publish")


@dataclass(frozen=True, kw_only=True)
class PublishingRun:
    """What a publish is given; the table's lock is held."""

    table: TableUri
    tag: str
    """`live`, or where a version waits to be promoted."""
    base: Tagged | None
    """The tag's version, which an incremental publish begins from."""
    live: Tagged | None
    """What readers see, which the new version must be as good as."""
    mode: Mode
    embeddings: Embeddings
    checkpoint: Checkpoint
    directions: Directions
    attributes: Attributes | None
    max_hit_rate_drop: float
    recorder: Recorder
    held: Held

    def run(self) -> dict[str, Any]:
        """Publish; return the record.

        Raises:
            ChecksFailed: The new version is not as good as it must be; `live` has not moved.
            ContractError: Workers or Lance did not write what was planned; nor has it.
        """
        log.info("%s publish: %s", self.mode.kind, self.mode.reason)
        with self.recorder.timed("changes"):
            found = self._changes()
        if self._is_up_to_date(found):
            told = (self.table.uri, self.tag, self._since.version)
            log.info("%s: `%s`, version %d, is up to date", *told)
            return {**self._published, "up_to_date": True}
        folder = staging.folder_of(
            self.table, plan.staging_plan(self.mode, self.base, self.embeddings, self.checkpoint)
        )
        held_out = self._held_out()
        lists = (erased.load(self.table.beside()), erased.load(self.embeddings.uri))
        with self.recorder.timed("draft"):
            images = publish.draft_buckets(
                found.work,
                self.embeddings,
                folder,
                model=self.checkpoint.uri,
                held_out=held_out,
                erased=lists,
                updated_at=self.recorder.started_at,
            )
        self.held.check()
        buckets = sorted(work.bucket for work in found.work)
        with self.recorder.timed("population"):
            fitted = self._population(folder, buckets)
        completion = self._completion(fitted)
        record = self._record(completion)
        drafted = self._drafted(folder, buckets)
        gone = self._gone(found, drafted)
        with self.recorder.timed("write"):
            merged = self._write(folder, buckets, completion, record, len(drafted), gone)
        with self.recorder.timed("index"):
            self.held.check()
            commit.index(self.table)
        version = commit.require_still_ours(self.table, self.recorder.run_id)
        halves = self._halves(folder, buckets, drafted, gone)
        planned = self._planned_rows(drafted, gone, any(lists))
        with self.recorder.timed("check"):
            results = self._check(version, drafted, halves, planned)
        if failed := [check for check in results if not check.passed]:
            raise ChecksFailed(
                f"{self.table.uri}: version {version.version} does not go live, readers keep"
                f" {self.live.version if self.live else 'nothing'}: "
                + "; ".join(f"{check.name}: {check.told}" for check in failed)
            )
        storage.write_parquet(
            self.table.beside("halves", f"{self.recorder.run_id}.parquet"), halves
        )
        finished = self.recorder.write(
            commit.publish_uri(self.table, self.recorder.run_id),
            counts={
                "creators": version.count_rows(),
                "images_read": images,
                "recomputed": len(drafted),
                **merged,
                "adjectives": len(self.directions.adjectives),
            },
            space=record["space"],
            mode=self.mode.kind,
            reason=self.mode.reason,
            refit_population=self.mode.refit,
            table=self.table.uri,
            table_version=version.version,
            tag=self.tag,
            since_version=self.base.version if self.base else None,
            embeddings=self.embeddings.uri,
            embeddings_run_id=self.embeddings.snapshot.run_id,
            parts=changes.parts_of(self.embeddings),
            model=self.checkpoint.uri,
            model_run_id=self.checkpoint.run_id,
            architecture=self.checkpoint.config.architecture,
            population=record["population"],
            directions=record["directions"],
            object_dependence=dependence_in_short(self.directions),
            attributes_digest=self.attributes.digest if self.attributes else None,
            held_out={"split": held_out.split, "below": held_out.below},
            checks=[check.to_json() for check in results],
        )
        self.held.check()
        commit.tag(self.table, self.tag, version.version)
        if self.tag == LIVE:
            metrics.show(metrics.VERSION, version.version, table=self.table.uri)
            metrics.show(metrics.PUBLISHED, time.time(), table=self.table.uri)
        staging.clear(self.table)
        log.info(
            "%s: `%s` is version %d with %s creators, %s recomputed",
            self.table.uri,
            self.tag,
            version.version,
            f"{finished['counts']['creators']:,}",
            f"{len(drafted):,}",
        )
        return finished

    def _changes(self) -> Changes:
        if self.mode.kind == plan.FULL:
            return changes.everything(self.embeddings)
        return publish.find_changes(self.embeddings, self._since)

    def _is_up_to_date(self, found: Changes) -> bool:
        if self.mode.kind == plan.FULL or found.work or found.gone:
            return False
        return not self._renew_attributes() and set(self._since.metadata["adjectives"]) == set(
            self.directions.adjectives
        )

    def _renew_attributes(self) -> bool:
        before = (
            self.base.publish.get("attributes_digest") if self.base and self.base.publish else None
        )
        return before != (self.attributes.digest if self.attributes else None)

    def _held_out(self) -> HeldOut:
        if self.mode.kind == plan.INCREMENTAL:
            return HeldOut(**self._published["held_out"])
        return HeldOut.of(self.checkpoint, self.embeddings.counts["creators"])

    def _population(self, folder: str, buckets: list[int]) -> Population:
        """Return the statistics of the live version, or new ones of the drafts."""
        words = self.directions
        if not self.mode.refit:
            known = Population.read(self.table, self._since.metadata["population"])
            new = words.select([w for w in words.adjectives if w not in known.quantiles])
            if not new.adjectives:
                return known
            batches = (
                pa.Table.from_batches([batch])
                for batch in self._since.dataset.scanner(columns=["mean_embedding"]).to_batches()
            )
            return known.with_quantiles(_scores(batches, new))
        columns = ["creator_id", "same", "theme_consistency"]
        return population.fit(
            (staging.read_creators(folder, bucket, columns) for bucket in buckets),
            _scores(
                (staging.read_creators(folder, bucket, ["mean_embedding"]) for bucket in buckets),
                words,
            ),
            self.checkpoint.config.dim,
        )

    def _completion(self, fitted: Population) -> Completion:
        joined = self.attributes.rows if self.attributes else None
        schema = rows.schema_of(self.checkpoint, self.directions.adjectives, joined)
        return Completion(fitted, self.directions, joined, schema)

    def _record(self, completion: Completion) -> dict[str, Any]:
        return rows.record_of(
            self.checkpoint,
            run_id=self.recorder.run_id,
            adjective_names=self.directions.adjectives,
            attributes=self.attributes.names if self.attributes else [],
            population=completion.population.write(self.table),
            directions=self.directions.write(self.table, self.embeddings.space),
            encoder_source=self.embeddings.encoder,
        )

    def _drafted(self, folder: str, buckets: list[int]) -> list[str]:
        parts = (staging.read_creators(folder, bucket, ["creator_id"]) for bucket in buckets)
        return [creator for part in parts for creator in part["creator_id"].to_pylist()]

    def _gone(self, found: Changes, drafted: list[str]) -> list[str]:
        """Return whom to drop: who has no images any more, and who was erased."""
        wanted = {creator for work in found.work for creator in work.creators or ()}
        return sorted({*found.gone, *(wanted - set(drafted))})

    def _write(
        self,
        folder: str,
        buckets: list[int],
        completion: Completion,
        record: dict[str, Any],
        drafted: int,
        gone: list[str],
    ) -> dict[str, int]:
        """Make the new version; return what a merge did."""
        if self.mode.kind == plan.FULL:
            fragments = publish.write_fragments(self.table, folder, buckets, completion)
            self.held.check()
            schema = rows.with_record(completion.schema, record)
            commit.overwrite(self.table, schema, fragments, planned=drafted)
            return {}
        dataset = commit.begin_from(self.table, self._since)
        commit.change_columns(dataset, completion, renew_attributes=self._renew_attributes())
        drafts = (staging.read_creators(folder, bucket) for bucket in buckets)
        merged = commit.merge(dataset, (completion.rows(table) for table in drafts), gone)
        commit.set_record(dataset, record)
        return merged

    @property
    def _published(self) -> dict[str, Any]:
        """The record of the publish before."""
        return (self.base.publish if self.base else None) or {}

    @property
    def _since(self) -> Tagged:
        """The version that an incremental publish begins from."""
        if self.base is None:
            raise AssertionError("an incremental publish without a version before it")
        return self.base

    def _halves(
        self, folder: str, buckets: list[int], drafted: list[str], gone: list[str]
    ) -> pa.Table:
        """Return the held-out creators of the new version, sorted."""
        new = pa.concat_tables(
            [
                rows.halves_schema(self.checkpoint.config.dim).empty_table(),
                *staging.read_halves(folder, buckets),
            ]
        )
        before = self._halves_of(self.base)
        if self.mode.kind == plan.INCREMENTAL and before is not None:
            stale = pc.is_in(before["creator_id"], pa.array([*drafted, *gone], pa.string()))
            new = pa.concat_tables([new, before.filter(pc.invert(stale))])
        return new.sort_by("creator_id")

    def _halves_of(self, version: Tagged | None) -> pa.Table | None:
        if version is None:
            return None
        uri = _halves_uri(self.table, version.metadata["run_id"])
        return storage.read_parquet(uri) if storage.exists(uri) else None

    def _planned_rows(self, drafted: list[str], gone: list[str], erased_any: bool) -> int:
        if not erased_any:
            return self.embeddings.counts["creators"]
        if self.mode.kind == plan.FULL:
            return len(drafted)
        before = self._since.dataset.to_table(columns=["creator_id"])["creator_id"].to_pylist()
        return len((set(before) - set(gone)) | set(drafted))

    def _check(
        self,
        version: lance.LanceDataset,
        drafted: list[str],
        halves: pa.Table,
        planned: int,
    ) -> list[Check]:
        new = list(version.get_fragments())
        if self.mode.kind == plan.INCREMENTAL:
            there = {fragment.fragment_id for fragment in self._since.dataset.get_fragments()}
            new = [fragment for fragment in new if fragment.fragment_id not in there]
        results = [
            checks.rows_and_ids(version, planned),
            checks.vectors(version, new),
            checks.indices(version),
            checks.queries(version, drafted),
            checks.quality(halves, self._halves_of(self.live), tolerance=self.max_hit_rate_drop),
        ]
        if self._same_space():
            results.append(self._drift(version))
        for check in results:
            outcome = "passed" if check.passed else "FAILED"
            log.info("check %s: %s: %s", check.name, outcome, check.told)
        return results

    def _same_space(self) -> bool:
        return (
            self.base is not None
            and "images_digest" in self.base.dataset.schema.names
            and self.base.metadata["space"]["fingerprint"] == self.checkpoint.fingerprint
        )

    def _drift(self, version: lance.LanceDataset) -> Check:
        columns = ["creator_id", "images_digest", "same"]
        before = self._since.dataset
        sample = before.sample(min(checks.DRIFT_SAMPLE, before.count_rows()), columns=columns)
        wanted = pc.field("creator_id").isin(sample["creator_id"].to_pylist())
        return checks.drift(version.to_table(columns=columns, filter=wanted), sample)


def _scores(tables: Any, directions: Directions) -> dict[str, np.ndarray]:
    """Return each adjective's scores of all rows of `mean_embedding`."""
    parts = [np.zeros((0, len(directions.adjectives)), np.float32)]
    for table in tables:
        mean = schemas.matrix(table["mean_embedding"])
        parts.append(adjectives.scores(mean, directions.vectors).astype(np.float32))
    found = np.concatenate(parts)
    return {word: found[:, i] for i, word in enumerate(directions.adjectives)}


def _halves_uri(table: TableUri, run_id: str) -> str:
    return table.beside("halves", f"{run_id}.parquet")
