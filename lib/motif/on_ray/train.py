"""EMBEDDINGS -> SAME checkpoint, on Ray Train."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from motif import schemas, splits, storage
from motif.artefacts import checkpoint
from motif.artefacts.checkpoint import CheckpointConfig
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError, MotifError
from motif.model import as_inputs
from motif.on_ray import session
from motif.training import Hyperparameters, to_metrics, train

log = logging.getLogger(__name__)

PROGRESS_FILE = "_train/progress.json"
LOG_EVERY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What every worker is told."""

    embeddings: str
    output: str
    input_column: str
    test_fraction: float
    validation_fraction: float
    test_fold: int
    hyper: Hyperparameters


@dataclass(frozen=True)
class TrainingSet:
    """Rows of EMBEDDINGS, sorted by creator and image."""

    inputs: torch.Tensor
    creator: np.ndarray
    creator_ids: list[str]


def load(embeddings: Embeddings, column: str) -> TrainingSet:
    """Read what training needs; rows are in one order, whatever the buckets.

    Raises:
        InputError: EMBEDDINGS has no such column, or no rows.
    """
    if column not in embeddings.schema.names:
        raise InputError(
            f"{embeddings.uri} has no column {column!r}; encode with --features, or train on"
            " `embedding`"
        )
    table = embeddings.read(["creator_id", "image_id", column])
    table = table.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])
    if not table.num_rows:
        raise InputError(f"{embeddings.uri} holds no images")
    creator_ids, creator = np.unique(
        np.array(table["creator_id"].to_pylist(), dtype=object), return_inverse=True
    )
    inputs = torch.tensor(schemas.matrix(table[column]))
    return TrainingSet(as_inputs(inputs), creator, creator_ids.tolist())


def _train_worker(config: dict[str, Any]) -> None:
    plan: TrainPlan = config["plan"]
    data = load(Embeddings.open(plan.embeddings), plan.input_column)
    chosen = {
        split: splits.indices(
            data.creator_ids,
            split,
            test_fraction=plan.test_fraction,
            validation_fraction=plan.validation_fraction,
            test_fold=plan.test_fold,
        )
        for split in (splits.TRAIN, splits.VALIDATION, splits.TEST)
    }

    def wrap(model: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(model)

    leads = ray.train.get_context().get_world_rank() == 0
    progress = storage.join(plan.output, PROGRESS_FILE)

    def report(row: dict[str, float]) -> None:
        if leads:
            storage.write_json(progress, row)

    outcome = train(
        data.inputs,
        data.creator,
        chosen[splits.TRAIN],
        chosen[splits.VALIDATION],
        plan.hyper,
        wrap=wrap,
        report=report,
    )
    if leads:
        metrics = to_metrics(outcome)
        metrics["creators"] = {split: len(found) for split, found in chosen.items()}
        metrics["images"] = len(data.inputs)
        whitened: Any = getattr(outcome.model, "whitened", outcome.model)
        input_dim, dim = whitened.matrix.shape
        checkpoint.write_weights(
            plan.output,
            outcome.model,
            CheckpointConfig(
                architecture=outcome.architecture,
                input_column=plan.input_column,
                input_dim=input_dim,
                dim=dim,
                hidden_dim=plan.hyper.hidden_dim,
                test_fraction=plan.test_fraction,
                validation_fraction=plan.validation_fraction,
                test_fold=plan.test_fold,
            ),
            metrics,
        )
    ray.train.report({"architecture": outcome.architecture})


def run_trainer(plan: TrainPlan, *, num_workers: int) -> None:
    """Train on `num_workers` workers, with a GPU each where the cluster has them.

    Raises:
        InputError: The cluster lacks the workers' resources, or the data cannot be trained on.
    """
    use_gpu = ray.cluster_resources().get("GPU", 0) >= num_workers
    session.require(
        cpus=num_workers, gpus=num_workers if use_gpu else 0, what=f"training on {num_workers}"
    )
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"plan": plan},
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}
        ),
        run_config=ray.train.RunConfig(storage_path=storage.join(plan.output, "_train")),
    )
    try:
        with _logged_progress(storage.join(plan.output, PROGRESS_FILE), plan.hyper.steps):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _refusal_in(error) or error from error


@contextlib.contextmanager
def _logged_progress(uri: str, steps: int) -> Iterator[None]:
    """Log what the leading worker writes down, every few seconds."""
    ended = threading.Event()

    def follow() -> None:
        last = 0
        while not ended.wait(LOG_EVERY_SECONDS):
            if storage.exists(uri) and (row := storage.read_json(uri))["step"] != last:
                last = row["step"]
                log.info(
                    "step %d of at most %d, loss %.3f, validation MRR %.3f, %.1f steps/s",
                    *(last, steps, row["loss"], row["validation_mrr"], row["steps_per_second"]),
                )

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _refusal_in(error: BaseException) -> MotifError | None:
    """Return the refusal that ended a worker, out of Ray Train's wrapping."""
    failures = getattr(error, "worker_failures", {}) or {}
    for cause in (*failures.values(), error.__cause__, getattr(error, "cause", None)):
        inner = getattr(cause, "_base_exc", None) or getattr(cause, "cause", None) or cause
        if isinstance(inner, MotifError):
            return inner
    return None
