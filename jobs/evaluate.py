"""EMBEDDINGS x SAME checkpoint -> metrics.json and report.html. Needs no Ray.

python -m jobs.evaluate --embeddings URI --model URI --output URI
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from motif import command, storage
from motif.artefacts import run
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.evaluation import evaluate as evaluation
from motif.evaluation import report
from motif.evaluation.sample import OBJECT, choose, truth_columns
from motif.space import require_same

log = logging.getLogger("motif.evaluate")

ARTEFACT = "evaluation"
OWNED = ("metrics.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure a SAME checkpoint on creators, and write a report to look at."""

    embeddings: str
    """Folder of EMBEDDINGS. Local or s3://. Where they carry a column `object`, it is also measured
    how often a creator's theme counts for more than what an image shows."""
    model: str
    """Folder of the SAME checkpoint, trained in the space of EMBEDDINGS."""
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
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: expected 0 or more")
    recorder = run.Recorder(ARTEFACT, config)
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
