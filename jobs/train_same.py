"""EMBEDDINGS -> SAME checkpoint.

ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "lib"}}' -- \
    python -m jobs.train_same --embeddings URI --output URI
"""

import json
import logging
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from motif import command, storage
from motif import space as spaces
from motif.artefacts import checkpoint, run, training_set
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.training_set import Split
from motif.errors import InputError
from motif.on_ray import capacity, session
from motif.on_ray.capacity import Capacity
from motif.on_ray.train import STATE_FILE, TrainPlan, run_trainer
from motif.training.hyperparameters import Hyperparameters
from motif.triplets import SLICES

log = logging.getLogger("motif.train_same")


@dataclass(frozen=True, kw_only=True)
class Config(Hyperparameters, Capacity):
    """Fit SAME to creators: a network that brings one creator's images together."""

    embeddings: str
    """Folder of EMBEDDINGS. Local or s3://."""
    output: str
    """Folder of the checkpoint. The same command goes on where it was cut off."""
    test_fraction: float = 0.1
    """Share of creators held out for jobs.evaluate, by a hash of their id; 0: none."""
    validation_fraction: float = 0.2
    """Share of the other creators that training is stopped and chosen by."""
    test_fold: int = 0
    """Which stretch of the hash is held out, for cross-validation."""
    max_images: int = training_set.MAX_IMAGES
    """Of larger EMBEDDINGS learn from a sample of creators with about so many images: all of the
    creators of some buckets."""
    input: Literal["auto", "embedding", "features"] = "auto"
    """Column of EMBEDDINGS to learn from; `auto`: `features` where it is there."""
    num_workers: int = 1
    """Ray Train workers, at most; the result does not depend on them but for rounding."""
    min_workers: int | None = None
    """Go on with so few when nodes are lost, and take more again when they come; by default all
    workers are waited for."""
    max_failures: int = 3
    """Workers or nodes that may die; each costs what came after the last state was kept."""
    save_minutes: float = 5.0
    """Keep the state of training so often, beside at the best validation."""
    scratch: str = ""
    """Folder on each node for its memory-mapped training set (2 bytes x dimensions x images); by
    default the node's own temporary folder."""
    overwrite: bool = False
    """Replace a checkpoint that is already at the output."""
    dry_run: bool = False
    """Say what would be trained on; write nothing."""
    json: bool = False
    """Print run.json on standard output."""

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            InputError: Names the flag and the value.
        """
        Hyperparameters.check(self)
        Capacity.check(self)
        for name in ("test_fraction", "validation_fraction"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: expected [0, 1)")
        folds = max(1, int(1 / self.test_fraction + 1e-9)) if self.test_fraction else 1
        if not 0 <= self.test_fold < folds:
            raise InputError(
                f"--test-fold {self.test_fold}: expected 0 to {folds - 1} with --test-fraction"
                f" {self.test_fraction:g}, so that folds do not overlap"
            )
        if self.max_images < 1:
            raise InputError(f"--max-images {self.max_images}: at least 1")
        if self.num_workers < 1:
            raise InputError(f"--num-workers {self.num_workers}: at least 1")
        if self.num_workers > min(SLICES, self.creators_per_batch):
            raise InputError(
                f"--num-workers {self.num_workers}: a batch of {self.creators_per_batch} creators"
                f" is shared out to {min(SLICES, self.creators_per_batch)} workers at most"
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise InputError(
                f"--min-workers {self.min_workers}: expected 1 to --num-workers {self.num_workers}"
            )
        if self.max_failures < 0:
            raise InputError(f"--max-failures {self.max_failures}: expected 0 or more")
        if not self.save_minutes >= 0:
            raise InputError(f"--save-minutes {self.save_minutes}: expected 0 or more")


def main(config: Config) -> dict[str, Any]:
    """Read, train, write the checkpoint, and only then mark it finished."""
    config.check()
    recorder = run.Recorder(checkpoint.ARTEFACT, config)
    output = storage.absolute(config.output)
    run.require_replaceable(output, checkpoint.ARTEFACT, overwrite=config.overwrite)
    embeddings = Embeddings.open(config.embeddings)
    plan = TrainPlan(
        embeddings=embeddings.uri,
        output=output,
        input_column=input_column(config, embeddings),
        split=Split(
            test_fraction=config.test_fraction,
            validation_fraction=config.validation_fraction,
            test_fold=config.test_fold,
        ),
        max_images=config.max_images,
        hyper=config,
        scratch=config.scratch,
        save_every_seconds=60 * config.save_minutes,
    )
    if config.dry_run:
        return command.show_plan(in_advance(plan, embeddings), as_json=config.json)
    session.connect()
    capacity.wait_for(config)
    going_on = run.claim(
        output,
        checkpoint.ARTEFACT,
        overwrite=config.overwrite,
        owned=checkpoint.OWNED,
        plan=identity(plan, embeddings),
    )
    if going_on and storage.exists(storage.join(output, STATE_FILE)):
        log.info("going on from the state that was kept in %s", output)
    with recorder.timed("train"):
        run_trainer(
            plan,
            min_workers=config.min_workers or config.num_workers,
            max_workers=config.num_workers,
            max_failures=config.max_failures,
        )
    metrics = storage.read_json(storage.join(output, "metrics.json"))
    digest = checkpoint.weights_sha256(output)
    record = recorder.finish(
        output,
        counts=metrics["counts"],
        space={
            "fingerprint": spaces.same_fingerprint(embeddings.space, digest),
            "same_sha256": digest,
            "encoder": embeddings.space.to_json(),
        },
        trained_on={
            "uri": embeddings.uri,
            "run_id": embeddings.snapshot.run_id,
            "images": embeddings.counts["embedded"],
        },
        input_column=plan.input_column,
        architecture=metrics["architecture"],
        reason=metrics["reason"],
    )
    storage.remove(storage.join(output, "_train"))
    log.info("%s: the checkpoint is the %s: %s", output, record["architecture"], record["reason"])
    return record


def input_column(config: Config, embeddings: Embeddings) -> str:
    """Return the column to learn from."""
    if config.input != "auto":
        return config.input
    return "features" if "features" in embeddings.schema.names else "embedding"


def identity(plan: TrainPlan, embeddings: Embeddings) -> dict[str, Any]:
    """Return what must be equal for an unfinished run to be continued."""
    hyper = {field.name: getattr(plan.hyper, field.name) for field in fields(Hyperparameters)}
    told = {
        "embeddings": [embeddings.uri, embeddings.snapshot.run_id, embeddings.space.fingerprint],
        "input_column": plan.input_column,
        "split": asdict(plan.split),
        "max_images": plan.max_images,
        **hyper,
    }
    # As it will be read back: lists, not tuples.
    return json.loads(json.dumps(told))


def in_advance(plan: TrainPlan, embeddings: Embeddings) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    buckets = training_set.sample(embeddings, plan.max_images)
    names: list[str] = []
    images = 0
    for bucket in buckets:
        found = embeddings.read_bucket(bucket, ["creator_id"])["creator_id"]
        names += [plan.split.of(creator) for creator in found.unique().to_pylist()]
        images += len(found)
    dim = 0
    if plan.input_column in embeddings.schema.names:
        dim = embeddings.schema.field(plan.input_column).type.list_size
    return {
        "dry_run": True,
        "images": images,
        "buckets": f"{len(buckets)} of {embeddings.buckets}",
        **{f"{s}_creators": names.count(s) for s in ("train", "validation", "test")},
        "input_column": plan.input_column,
        "space": embeddings.space.to_json(),
        "scratch_bytes_per_node_at_most": 2 * dim * images,
        "steps_at_most": plan.hyper.steps,
        "images_per_step_at_most": 2 * max(plan.hyper.set_sizes) * plan.hyper.creators_per_batch,
    }


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.train_same")
