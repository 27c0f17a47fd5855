"""INTERACTIONS x CREATORS -> a table of creators for each brand whom nobody has worked with yet.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.recommend --interactions URI --table URI --output s3://bucket/db/for_brands.lance
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import tyro
from safetensors.numpy import load, save
from scipy.sparse import csr_array

from motif import command, storage
from motif.artefacts import lock, run
from motif.errors import InputError
from motif.on_ray import capacity, recommend, session
from motif.on_ray.capacity import Capacity
from motif.on_ray.recommend import CB2CF, KNN, POPULAR, Work
from motif.publishing import commit
from motif.recommend import contents, interactions, scorers
from motif.recommend.bpr import BprSettings, Collaborative
from motif.recommend.cb2cf import NetworkSettings
from motif.recommend.contents import Content
from motif.recommend.interactions import Interactions
from motif.schemas import RECOMMENDATIONS_VERSION
from motif.table.layout import LIVE, RECOMMENDATIONS, TableUri

log = logging.getLogger("motif.recommend")


@dataclass(frozen=True, kw_only=True)
class Config(Capacity):
    """Rank creators without history for each brand, from their content alone."""

    interactions: str
    """Who has worked with whom: .parquet, .csv or .jsonl (also .gz) with `brand_id`, `creator_id`,
    optional `weight` and `at`; or a folder of .parquet. Local or s3://."""
    table: str
    """CREATORS: DATABASE/TABLE.lance, its version that is live."""
    output: str
    """DATABASE/TABLE.lance of recommendations: created, or given a new version."""
    method: Literal["knn", "cb2cf", "popular"] = "knn"
    """knn: like the creators whom the brand has worked with. cb2cf: a network guesses the
    collaborative vector from the content. popular: like creators who work with many."""
    content: Literal["same", "mean", "whitened"] = "same"
    """What creators are compared by: `same`; `mean`, of their images' embeddings; or that whitened
    over all creators."""
    candidates: Literal["cold", "unseen"] = "cold"
    """cold: creators with whom nobody has worked. unseen: with whom this brand has not."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 100
    """Creators for each brand."""
    neighbours: int = scorers.NEIGHBOURS
    """knn: creators of a brand's that count for a candidate, at most."""
    temperature: float = scorers.TEMPERATURE
    """knn: low, and the nearest of them decides; high, and their mean does. In units of cosine."""
    factors: int = BprSettings.factors
    """cb2cf: length of the collaborative vectors."""
    iterations: int = BprSettings.iterations
    """cb2cf: passes over the interactions."""
    seed: int = 0
    """cb2cf."""
    single_writer: bool = False
    """Do not lock the output: you see to it that nothing else writes it."""
    dry_run: bool = False
    """Say what would be ranked; write nothing."""
    json: bool = False
    """Print the run's record on standard output."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: A flag is out of range.
        """
        super().check()
        bounds = {"k": (1, 10_000), "neighbours": (1, 1000), "factors": (1, 1024)}
        bounds |= {"iterations": (1, 10_000), "seed": (0, 2**31)}
        for name, (low, high) in bounds.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise InputError(f"--{name} {value}: expected {low} to {high}")
        if not 0.03 <= self.temperature <= 100:
            raise InputError(f"--temperature {self.temperature:g}: expected 0.03 to 100")


def main(config: Config) -> dict[str, Any]:
    """Join, learn what the method needs, rank in tasks, and only then let readers see it."""
    config.check()
    recorder = run.Recorder(RECOMMENDATIONS, config)
    output = TableUri.parse(config.output, "--output")
    commit.require_ours(output, RECOMMENDATIONS)
    with recorder.timed("read"):
        creators = contents.of_table(config.table, config.content)
        found = interactions.read(config.interactions, creators.ids)
    log.info("%s", in_words(found))
    candidates = candidates_of(config, found)
    if config.dry_run:
        return command.show_plan(plan_of(config, found, candidates), as_json=config.json)
    session.connect()
    capacity.wait_for(config)
    with lock.hold(
        output.beside(), run_id=recorder.run_id, single_writer=config.single_writer
    ) as held:
        with recorder.timed("learn"):
            products = products_of(config, creators, found, output)
        work = Work(
            table=output,
            brand_ids=pa.array(found.brand_ids, pa.string()),
            creator_ids=pa.array(creators.ids, pa.string()),
            content=creators.vectors,
            history=found.weights,
            candidates=candidates,
            leave_out_known=config.candidates == "unseen",
            k=config.k,
            method=config.method,
            popular=popular_of(config, creators, found, candidates),
            products=products,
            neighbours=config.neighbours,
            temperature=config.temperature,
        )
        with recorder.timed("rank"):
            fragments = recommend.write_all(work, held.check)
        told = {
            "schema_version": RECOMMENDATIONS_VERSION,
            "run_id": recorder.run_id,
            "method": config.method,
            "content": config.content,
            "candidates": config.candidates,
            "creators": {"table": creators.uri, "version": creators.version},
            "space": creators.space,
        }
        with recorder.timed("commit"):
            held.check()
            version = recommend.make_version(work, fragments, told)
        record = recorder.write(
            commit.publish_uri(output, recorder.run_id),
            counts={
                **asdict(found.counts),
                "creators": len(creators.ids),
                "candidates": len(candidates),
                "rows": version.count_rows(),
            },
            space=creators.space,
            table=output.uri,
            table_version=version.version,
            tag=LIVE,
            of_creators=told["creators"],
            interactions_digest=found.digest,
        )
        held.check()
        commit.tag(output, LIVE, version.version)
        storage.remove(output.beside("staging"))
    log.info(
        "%s: `%s` is version %d with %s creators for %s brands",
        output.uri,
        LIVE,
        version.version,
        f"{version.count_rows():,}",
        f"{len(found.brand_ids):,}",
    )
    return record


def in_words(found: Interactions) -> str:
    """Return what became of the interactions, for a person."""
    counts = found.counts
    parts = [
        f"{counts.rows:,} interactions: {counts.pairs:,} pairs of {counts.brands:,} brands and"
        f" {len(found.known):,} of {len(found.creator_ids):,} creators"
    ]
    if counts.unmatched_rows:
        parts.append(
            f"{counts.unmatched_rows:,} rows of {counts.unmatched_creators:,} creators who are not"
            " in CREATORS"
        )
    if counts.repeated_rows:
        parts.append(f"{counts.repeated_rows:,} rows of pairs that came before")
    if counts.brands_without_creators:
        parts.append(f"{counts.brands_without_creators:,} brands without a known creator")
    return "; ".join(parts)


def candidates_of(config: Config, found: Interactions) -> np.ndarray:
    """Return whom to choose from.

    Raises:
        InputError: Nobody is known, or nobody is left.
    """
    if not found.counts.pairs:
        raise InputError(
            f"--interactions {config.interactions}: none of its"
            f" {found.counts.unmatched_creators:,} creators is in --table {config.table}"
        )
    if config.candidates == "unseen":
        return np.arange(len(found.creator_ids))
    if not len(found.cold):
        raise InputError(
            f"--interactions {config.interactions}: somebody has worked with each of the"
            f" {len(found.creator_ids):,} creators of --table {config.table}; --candidates unseen"
            " ranks those with whom a brand has not"
        )
    return found.cold


def popular_of(
    config: Config, creators: Content, found: Interactions, candidates: np.ndarray
) -> np.ndarray:
    """Return how popular candidates are expected to be, if anybody is ranked by it."""
    if config.method != POPULAR and not found.counts.brands_without_creators:
        return np.zeros(len(creators.ids), np.float32)
    return recommend.popularity(creators.vectors, found.weights, candidates)


def products_of(
    config: Config, creators: Content, found: Interactions, output: TableUri
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the vectors whose products are scores, of a method that has such."""
    if config.method != CB2CF:
        return None
    settings = BprSettings(factors=config.factors, iterations=config.iterations, seed=config.seed)
    collaborative = collaborative_of(found.weights, settings, found, output)
    return recommend.predict(
        creators.vectors, collaborative, found.known, NetworkSettings(seed=config.seed)
    )


def collaborative_of(
    history: csr_array, settings: BprSettings, found: Interactions, output: TableUri
) -> Collaborative:
    """Return collaborative vectors, those of a run that was cut off where they are of the same."""
    told = json.dumps([found.digest, found.creator_ids, asdict(settings)])
    name = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    uri = output.beside("staging", f"collaborative-{name}.safetensors")
    if storage.exists(uri):
        log.info("going on from the collaborative vectors that a run that was cut off had learned")
        kept = load(storage.read_bytes(uri))
        return Collaborative(kept["brands"], kept["creators"])
    log.info("learning %d collaborative factors, %d passes", settings.factors, settings.iterations)
    learned = recommend.fit_collaborative(history, settings)
    storage.write_bytes(uri, save({"brands": learned.brands, "creators": learned.creators}))
    return learned


def plan_of(config: Config, found: Interactions, candidates: np.ndarray) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    return {
        "dry_run": True,
        **asdict(found.counts),
        "creators": len(found.creator_ids),
        "candidates": len(candidates),
        "method": config.method,
        "brands_by_popularity": found.counts.brands_without_creators
        if config.method != POPULAR
        else found.counts.brands,
        "products_to_compute": found.counts.pairs * len(candidates) if config.method == KNN else 0,
        "rows_at_most": found.counts.brands * min(config.k, len(candidates)),
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.recommend")
