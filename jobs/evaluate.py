"""EMBEDDINGS x SAME checkpoint -> metrics.json and report.html. Needs no Ray.

python -m jobs.evaluate --embeddings URI --model URI --output URI
python -m jobs.evaluate --interactions URI --table URI --output URI
"""

import logging
from dataclasses import asdict, dataclass
from typing import Any, Literal

from motif import command, storage
from motif.artefacts import run
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.evaluation import evaluate as evaluation
from motif.evaluation import recommending, report
from motif.evaluation.sample import OBJECT, choose, truth_columns
from motif.recommend import cold_start, contents, interactions
from motif.space import require_same

log = logging.getLogger("motif.evaluate")

ARTEFACT = "evaluation"
OWNED = ("metrics.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure a SAME checkpoint on creators, and write a report to look at.

    Or, with --interactions and --table, how well creators without history are found for brands.
    """

    embeddings: str = ""
    """Folder of EMBEDDINGS. Local or s3://. Where they carry a column `object`, it is also measured
    how often a creator's theme counts for more than what an image shows."""
    model: str = ""
    """Folder of the SAME checkpoint, trained in the space of EMBEDDINGS."""
    interactions: str = ""
    """In place of both: who has worked with whom, as of jobs.recommend."""
    table: str = ""
    """With --interactions: CREATORS, its version that is live."""
    hold_out: Literal["creators", "time"] = "creators"
    """With --interactions: hide creators, by a hash of their id; or those who were first worked
    with last, where interactions say when."""
    cold_fraction: float = 0.2
    """With --interactions: share of creators, or of interactions in time, that is hidden."""
    collaborative: bool = True
    """With --interactions: also CB2CF, which takes longest."""
    output: str
    """Folder of metrics.json and report.html."""
    encoder: str = ""
    """Where to load the text encoder from, if not from where EMBEDDINGS had it."""
    creators: Literal["test", "all"] = "test"
    """`test`: creators that the checkpoint held out, by a hash of their id. `all`: every creator,
    for a model that was trained on other ones."""
    max_creators: int = evaluation.MAX_CREATORS
    """Compare at most this many creators, chosen by a hash of their id."""
    seed: int = 0
    """Of the random halves and of the images that are shown."""
    overwrite: bool = False
    """Replace an evaluation that is already at the output."""
    dry_run: bool = False
    """Say what would be compared; write nothing."""
    json: bool = False
    """Print run.json on standard output."""


def main(config: Config) -> dict[str, Any]:
    """Measure, draw, write the report, and only then mark it finished."""
    check(config)
    recorder = run.Recorder(ARTEFACT, config)
    if config.interactions:
        return evaluate_recommending(config, recorder)
    output = storage.absolute(config.output)
    run.require_replaceable(output, ARTEFACT, overwrite=config.overwrite)
    embeddings = Embeddings.open(config.embeddings)
    checkpoint = Checkpoint.open(config.model)
    if config.dry_run:
        return command.show_plan(plan_of(config, embeddings, checkpoint), as_json=config.json)
    with recorder.timed("encoder"):
        encode_texts, note = evaluation.open_text_encoder(embeddings, config.encoder)
        if note:
            log.warning("adjectives are left out: %s", note)
    with recorder.timed("measure"):
        result = evaluation.evaluate(
            embeddings,
            checkpoint,
            creators=config.creators,
            seed=config.seed,
            max_creators=config.max_creators,
            encode_texts=encode_texts,
            adjectives_note=note,
        )
        evaluation.require_enough(result)
    run.claim(output, ARTEFACT, overwrite=config.overwrite, owned=OWNED, plan=None)
    metrics = evaluation.to_metrics(result)
    with recorder.timed("report"):
        page = report.render(result, run_id=recorder.run_id, created_at=recorder.started_at)
    storage.write_json(storage.join(output, "metrics.json"), metrics)
    storage.write_bytes(storage.join(output, "report.html"), page.html.encode())
    record = recorder.finish(
        output,
        counts={**metrics["counts"], "images_shown": page.shown, "images_missing": page.missing},
        space={
            "fingerprint": checkpoint.fingerprint,
            "encoder": checkpoint.encoder_space.to_json(),
        },
        verdict=metrics["verdict"],
    )
    log.info("%s", metrics["verdict"])
    log.info("open %s", storage.join(output, "report.html"))
    return record


def check(config: Config) -> None:
    """Refuse flags that make no sense.

    Raises:
        InputError: Names them.
    """
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: expected 0 or more")
    if not 0 < config.cold_fraction < 1:
        raise InputError(f"--cold-fraction {config.cold_fraction:g}: expected more than 0, below 1")
    of_same, of_brands = (config.embeddings, config.model), (config.interactions, config.table)
    if all(of_same) == all(of_brands) or (any(of_same) and any(of_brands)):
        raise InputError("name --embeddings and --model, or --interactions and --table")


def evaluate_recommending(config: Config, recorder: run.Recorder) -> dict[str, Any]:
    """Measure how well creators without history are found."""
    output = storage.absolute(config.output)
    run.require_replaceable(output, ARTEFACT, overwrite=config.overwrite)
    creators = {kind: contents.of_table(config.table, kind) for kind in contents.KINDS}
    first = creators[contents.SAME]
    found = interactions.read(config.interactions, first.ids)
    if config.hold_out == "time":
        holdout = cold_start.by_time(found, config.cold_fraction)
    else:
        holdout = cold_start.by_creators(found, config.cold_fraction, config.seed)
    if config.dry_run:
        plan = {
            "dry_run": True,
            **asdict(found.counts),
            "hidden_creators": len(holdout.cold),
            "brands_ranked_for": len(holdout.brands),
        }
        return command.show_plan(plan, as_json=config.json)
    with recorder.timed("measure"):
        result = recommending.measure(
            found,
            {kind: one.vectors for kind, one in creators.items()},
            holdout,
            collaborative=config.collaborative,
            seed=config.seed,
        )
        metrics = recommending.to_metrics(result, found)
    run.claim(output, ARTEFACT, overwrite=config.overwrite, owned=OWNED, plan=None)
    with recorder.timed("report"):
        page = recommending.render(
            result, found, table=first.uri, run_id=recorder.run_id, created_at=recorder.started_at
        )
    storage.write_json(storage.join(output, "metrics.json"), metrics)
    storage.write_bytes(storage.join(output, "report.html"), page.encode())
    record = recorder.finish(
        output, counts=metrics["counts"], space=first.space, verdict=metrics["verdict"]
    )
    log.info("%s", metrics["verdict"])
    log.info("open %s", storage.join(output, "report.html"))
    return record


def plan_of(config: Config, embeddings: Embeddings, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what `--dry-run` says, after the refusals that the run itself would make."""
    require_same(
        embeddings.space,
        checkpoint.encoder_space,
        what=f"EMBEDDINGS {embeddings.uri}",
        needed_by=f"the model {checkpoint.uri}",
    )
    choice = choose(
        embeddings, checkpoint, creators=config.creators, max_creators=config.max_creators
    )
    return {
        "dry_run": True,
        "creators_in_embeddings": choice.in_embeddings,
        "creators_to_choose_from": choice.available,
        "creators_compared": len(choice.evaluated),
        "adjectives_with_truth": ", ".join(truth_columns(embeddings).values()) or "none",
        "theme_over_object": OBJECT in embeddings.schema.names,
        "architecture": checkpoint.config.architecture,
        "space": embeddings.space.to_json(),
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.evaluate")
