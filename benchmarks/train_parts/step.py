"""A step that samples and reads its batch, against the same step on one resident batch."""

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measurement import Measurement, spread
from benchmarks.train_parts import archive
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.training_set import Split, TrainingSet, load
from motif.model import SameNetwork
from motif.training.descent import Stepper, batches_of
from motif.training.hyperparameters import Hyperparameters
from motif.training.rows import Rows, stream
from motif.whitening import fit

BAR = 1.2
SPLIT = Split(test_fraction=0.0, validation_fraction=0.01, test_fold=0)


def training_set(cache: Path, images: int) -> TrainingSet:
    """Return the archive's training set, mapped into memory."""
    opened = Embeddings.open(str(archive.make(cache, images)))
    return load(opened, "features", SPLIT, cache / f"training-set-{images}")


def measure(
    cache: Path, *, images: int, repeats: int, creators: int, steps: int, device: torch.device
) -> Iterator[Measurement]:
    """Time steps of `creators` x 4 images in turns, on one thread, as a worker has."""
    torch.set_num_threads(1)
    data = training_set(cache, images)
    # It shall not learn: on one batch it would soon, and steps without active triplets differ.
    hyper = Hyperparameters(creators_per_batch=creators, set_sizes=(2,), learning_rate=1e-9)
    batches = batches_of(data, hyper)
    share = batches.share(0, 1)
    few = torch.tensor(data.rows[:20000].astype("float32"))
    whitening = fit(few, torch.arange(len(few)) // archive.IMAGES_PER_CREATOR, keep=hyper.dim)
    network = SameNetwork(whitening, hidden_dim=hyper.hidden_dim).to(device)
    stepper = Stepper(network, network, batches, share, hyper)
    rows = Rows(data.rows, device)
    resident = rows.take(batches.draw(0, share.slices))
    first = itertools.count(1, steps + 10)

    def seconds(streamed: bool) -> float:
        start = next(first)
        source = stream(rows, batches, share.slices, range(start, start + steps))
        if not streamed:
            source = ((step, resident) for step in range(start, start + steps))
        began = time.perf_counter()
        for step, batch in source:
            stepper.take(step, batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / steps

    for streamed in (True, False):
        seconds(streamed)
    found: dict[str, list[float]] = {"streamed": [], "resident": []}
    for _ in range(repeats):
        found["streamed"].append(1e3 * seconds(True))
        found["resident"].append(1e3 * seconds(False))
    median = {name: statistics.median(values) for name, values in found.items()}
    yield Measurement(
        part="step" if device.type == "cpu" else "gpu",
        name="step with sampling and gathering / on one resident batch",
        value=median["streamed"] / median["resident"],
        at_most=BAR,
        figures={
            "milliseconds": {name: spread(values) for name, values in found.items()},
            "images_per_second": round(4e3 * batches.width / median["streamed"]),
            "batch": [batches.width, 4, archive.DIM],
            "set": list(data.rows.shape),
            "set_on_gpu": rows.is_resident,
        },
    )
