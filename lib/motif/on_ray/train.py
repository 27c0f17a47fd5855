"""EMBEDDINGS -> SAME checkpoint, on Ray Train."""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from torch import nn

from motif import storage
from motif.artefacts import checkpoint, training_set
from motif.artefacts.checkpoint import CheckpointConfig
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.training_set import Split, TrainingSet
from motif.command import REFUSALS
from motif.errors import TooManyFailures
from motif.model import embed
from motif.on_ray import session
from motif.progress import duration
from motif.training.fit import Outcome, to_metrics, train
from motif.training.hyperparameters import Hyperparameters

log = logging.getLogger(__name__)

PROGRESS_FILE = "_train/progress.json"
STATE_FILE = "_train/state.safetensors"
LOG_EVERY_SECONDS = 5.0
RESIZE_EVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What every worker is told."""

    embeddings: str
    output: str
    input_column: str
    split: Split
    max_images: int
    hyper: Hyperparameters
    scratch: str
    """Folder on each node for its training set; empty for the node's own temporary folder."""
    save_every_seconds: float


@dataclass(frozen=True)
class _Storage:
    """Keeps the state of training beside the checkpoint that it will become."""

    uri: str

    def load(self) -> bytes | None:
        """Return what was kept last."""
        return storage.read_bytes(self.uri) if storage.exists(self.uri) else None

    def save(self, data: bytes) -> None:
        """Replace it; what cannot be kept now can be kept later."""
        with _tolerated():
            storage.write_bytes(self.uri, data)


def _train_worker(config: dict[str, Any]) -> BaseException | None:
    """Train in one of the workers; return a refusal, which another attempt would not mend."""
    plan: TrainPlan = config["plan"]
    embeddings = Embeddings.open(plan.embeddings)
    name = training_set.folder_name(
        embeddings, plan.input_column, plan.split, plan.output, plan.max_images
    )
    folder = Path(plan.scratch or tempfile.gettempdir()) / name
    refusal = _train(plan, embeddings, folder)
    # What dies instead of coming here leaves it: the next attempt begins with it.
    if ray.train.get_context().get_local_rank() == 0:
        for path in (folder, f"{folder}.lock"):
            storage.remove(str(path))
    return refusal


def _train(plan: TrainPlan, embeddings: Embeddings, folder: Path) -> BaseException | None:
    """Train; return a refusal, of whichever worker, once no worker opens the folder any more."""
    leads = ray.train.get_context().get_world_rank() == 0
    progress = _Progress(storage.join(plan.output, PROGRESS_FILE), plan.hyper.steps)
    data: TrainingSet | None = None
    refusal: BaseException | None = None
    try:
        data = training_set.load(
            embeddings,
            plan.input_column,
            plan.split,
            folder,
            max_images=plan.max_images,
            report=progress.reading if leads else lambda done, total: None,
        )
    except REFUSALS as error:
        refusal = error
    if refusal := _first_refusal(refusal):
        return refusal
    assert data is not None
    try:
        outcome = train(
            data,
            plan.hyper,
            device=ray.train.torch.get_device(),
            wrap=_distributed,
            report=progress.training,
            keeper=_Storage(storage.join(plan.output, STATE_FILE)),
            save_every_seconds=plan.save_every_seconds,
        )
    except REFUSALS as error:  # all workers come to the same
        return error
    try:
        if outcome is not None:
            _write(outcome, data, plan)
    except REFUSALS as error:
        refusal = error
    # Nor does anybody leave the others before all have come here.
    return _first_refusal(refusal)


def _first_refusal(own: BaseException | None) -> BaseException | None:
    """Tell all workers of a refusal of one: the others would wait for it in vain."""
    if not dist.is_initialized():
        return own
    found: list[BaseException | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return next((error for error in found if error is not None), None)


def _distributed(network: nn.Module) -> nn.Module:
    # The whitening does not change; sending it in each step is waste.
    return ray.train.torch.prepare_model(
        network,
        parallel_strategy_kwargs={"forward_sync_buffers": False, "gradient_as_bucket_view": True},
    )


def _write(outcome: Outcome, data: TrainingSet, plan: TrainPlan) -> None:
    input_dim = data.rows.shape[1]
    checkpoint.write_weights(
        plan.output,
        outcome.model,
        CheckpointConfig(
            architecture=outcome.architecture,
            input_column=plan.input_column,
            input_dim=input_dim,
            dim=embed(outcome.model, torch.zeros(1, input_dim)).shape[1],
            hidden_dim=plan.hyper.hidden_dim,
            **asdict(plan.split),
        ),
        to_metrics(outcome, data),
    )


class _Progress:
    """Writes down, for the driver to say, where training stands."""

    def __init__(self, uri: str, steps: int) -> None:
        self._uri = uri
        self._steps = steps
        self._last = 0.0

    def reading(self, done: int, total: int) -> None:
        self._write({"reading": f"{done} of {total}"}, last=done == total)

    def training(self, row: dict[str, Any]) -> None:
        self._write(row, last=row["step"] == self._steps)

    def _write(self, row: dict[str, Any], *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._last >= LOG_EVERY_SECONDS / 2:
            with _tolerated():
                storage.write_json(self._uri, row)
            self._last = now


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Go on without what could not be written: the other workers wait for this one."""
    try:
        yield
    except REFUSALS as error:
        log.warning("%s", error)


def run_trainer(plan: TrainPlan, *, min_workers: int, max_workers: int, max_failures: int) -> None:
    """Train on as many workers as there are, with a GPU each where the cluster has them.

    Args:
        plan: What to train.
        min_workers: Fewer are waited for.
        max_workers: More are not used; the result is the same.
        max_failures: Workers that may die, each of which costs a start from the last state.

    Raises:
        InputError: The cluster lacks the workers' resources, or the data cannot be trained on.
        TooManyFailures: More workers died.
    """
    use_gpu = ray.cluster_resources().get("GPU", 0) >= min_workers
    session.require(
        cpus=min_workers, gpus=min_workers if use_gpu else 0, what=f"training on {min_workers}"
    )
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"plan": plan},
        scaling_config=ray.train.ScalingConfig(
            num_workers=max_workers if min_workers == max_workers else (min_workers, max_workers),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": 1},
            elastic_resize_monitor_interval_s=RESIZE_EVERY_SECONDS,
        ),
        run_config=ray.train.RunConfig(
            storage_path=storage.join(plan.output, "_train"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    )
    with _logged_progress(storage.join(plan.output, PROGRESS_FILE), plan.hyper.steps):
        try:
            result = trainer.fit()
        except ray.train.WorkerGroupError as error:
            if died := _died(error):
                raise TooManyFailures(
                    f"{died}; workers died more often than --max-failures {max_failures} allows:"
                    " run the same command again to go on from the state that was kept"
                ) from error
            raise
    if isinstance(result.return_value, REFUSALS):
        raise result.return_value


def _died(error: ray.train.WorkerGroupError) -> str:
    """Return which workers were lost, as against failed by our own mistake; or nothing."""
    lost = [
        f"worker {rank}"
        for rank, failure in sorted(error.worker_failures.items())
        # Ray wraps it, in a class that it keeps to itself.
        if isinstance(getattr(failure, "health_check_failure", failure), RayActorError)
    ]
    return f"{', '.join(lost)} died" if lost else ""


@contextlib.contextmanager
def _logged_progress(uri: str, steps: int) -> Iterator[None]:
    """Log what the leading worker writes down, every few seconds."""
    ended = threading.Event()

    def follow() -> None:
        last: dict[str, Any] = {}
        while not ended.wait(LOG_EVERY_SECONDS):
            with _tolerated():
                if storage.exists(uri) and (row := storage.read_json(uri)) != last:
                    last = row
                    log.info("%s", in_words(row, steps))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def in_words(row: dict[str, Any], steps: int) -> str:
    """Return a line of progress."""
    if "reading" in row:
        return f"reading EMBEDDINGS: bucket {row['reading']}"
    rate, workers = row["steps_per_second"], row["workers"]
    return (
        f"step {row['step']:,} of at most {steps:,}, loss {row['loss']:.3f}, active triplets"
        f" {row['active_fraction']:.1%}, validation hit rate {row['validation_hit_rate']:.3f}, MRR"
        f" {row['validation_mrr']:.3f}, {rate:.1f} steps/s on {workers} worker{'s'[: workers > 1]},"
        f" at most {duration((steps - row['step']) / rate)} left"
    )
