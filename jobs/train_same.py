"""EMBEDDINGS -> SAME checkpoint.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.train_same --embeddings URI --output URI
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from motif import command, splits, storage
from motif import space as spaces
from motif.artefacts import checkpoint, run
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.on_ray import session
from motif.on_ray import train as on_ray_train
from motif.training import Hyperparameters

log = logging.getLogger("motif.train_same")


@dataclass(frozen=True, kw_only=True)
class Config(Hyperparameters):
    """Fit SAME to creators: a network that brings one creator's images together."""

    embeddings: str
    """Folder of EMBEDDINGS. Local or s3://."""
    output: str
    """Folder of the checkpoint."""
    test_fraction: float = 0.1
    """Share of creators held out for jobs.evaluate, by a hash of their id; 0: none."""
    validation_fraction: float = 0.2
    """Share of the other creators that training is stopped by."""
    test_fold: int = 0
    """Which stretch of the hash is held out, for cross-validation."""
    input: Literal["embedding", "features"] = "embedding"
    """Column of EMBEDDINGS to learn from: `embedding` or `features`."""
    num_workers: int = 1
    """Ray Train workers; the result does not depend on them but for rounding and dropout."""
    overwrite: bool = False
    """Replace a checkpoint that is already at the output."""
    dry_run: bool = False
    """Say what would be trained on; write nothing."""
    json: bool = False
    """Print run.json on standard output."""


def main(config: Config) -> dict[str, Any]:
    """Read, train, write the checkpoint, and only then mark it finished."""
    config.check()
    check_fractions(config)
    recorder = run.Recorder(checkpoint.ARTEFACT, config)
    output = storage.absolute(config.output)
    run.require_replaceable(output, checkpoint.ARTEFACT, overwrite=config.overwrite)
    embeddings = Embeddings.open(config.embeddings)
    if config.dry_run:
        return command.show_plan(plan_of(config, embeddings), as_json=config.json)
    session.connect()
    run.claim(
        output, checkpoint.ARTEFACT, overwrite=config.overwrite, owned=checkpoint.OWNED, plan=None
    )
    with recorder.timed("train"):
        on_ray_train.run_trainer(
            on_ray_train.TrainPlan(
                embeddings=embeddings.uri,
                output=output,
                input_column=config.input,
                test_fraction=config.test_fraction,
                validation_fraction=config.validation_fraction,
                test_fold=config.test_fold,
                hyper=config,
            ),
            num_workers=config.num_workers,
        )
    metrics = storage.read_json(storage.join(output, "metrics.json"))
    digest = checkpoint.weights_sha256(output)
    record = recorder.finish(
        output,
        counts={
            "images": metrics["images"],
            **{f"{split}_creators": n for split, n in metrics["creators"].items()},
        },
        space={
            "fingerprint": spaces.same_fingerprint(embeddings.space, digest),
            "same_sha256": digest,
            "encoder": embeddings.space.to_json(),
        },
        architecture=metrics["architecture"],
        reason=metrics["reason"],
    )
    storage.remove(storage.join(output, "_train"))
    log.info("%s: the checkpoint is the %s: %s", output, record["architecture"], record["reason"])
    return record


def check_fractions(config: Config) -> None:
    """Refuse splits that leave nothing to learn from.

    Raises:
        InputError: Names the flag and the value.
    """
    if not 0 <= config.test_fraction < 1:
        raise InputError(f"--test-fraction {config.test_fraction}: expected [0, 1)")
    if not 0 <= config.validation_fraction < 1:
        raise InputError(f"--validation-fraction {config.validation_fraction}: expected [0, 1)")
    folds = max(1, int(1 / config.test_fraction + 1e-9)) if config.test_fraction else 1
    if not 0 <= config.test_fold < folds:
        raise InputError(
            f"--test-fold {config.test_fold}: expected 0 to {folds - 1} with --test-fraction"
            f" {config.test_fraction:g}, so that folds do not overlap"
        )
    if config.num_workers < 1:
        raise InputError(f"--num-workers {config.num_workers}: at least 1")


def plan_of(config: Config, embeddings: Embeddings) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    creators = set(embeddings.read(["creator_id"])["creator_id"].to_pylist())
    names = [
        splits.split_of(
            creator,
            test_fraction=config.test_fraction,
            validation_fraction=config.validation_fraction,
            test_fold=config.test_fold,
        )
        for creator in creators
    ]
    return {
        "dry_run": True,
        "images": embeddings.counts["embedded"],
        **{f"{s}_creators": names.count(s) for s in ("train", "validation", "test")},
        "space": embeddings.space.to_json(),
        "steps_at_most": config.steps,
        "images_per_step_at_most": 2 * max(config.set_sizes) * config.creators_per_batch,
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.train_same")
