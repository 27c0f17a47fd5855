"""Rows of the training set, on their way to the device that learns from them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motif.triplets import Batches

# Of a GPU's free memory; the rest is for the step.
RESIDENT_FRACTION = 0.5


class Rows:
    """A matrix to take rows from; on the GPU where it fits, else where it is."""

    def __init__(self, rows: Float[np.ndarray, "images dim"], device: torch.device) -> None:
        self._rows = rows
        self._device = device
        self._resident: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if rows.nbytes <= RESIDENT_FRACTION * free:
                self._resident = torch.from_numpy(np.array(rows)).to(device)

    @property
    def is_resident(self) -> bool:
        """Whether the rows are on the GPU."""
        return self._resident is not None

    def take(self, index: Int[np.ndarray, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return rows as float32 on the device."""
        if self._resident is not None:
            where = torch.from_numpy(index.ravel()).to(self._device, non_blocking=True)
            taken = self._resident[where].float()
        else:
            taken = torch.from_numpy(self._rows[index.ravel()])
            if self._device.type == "cuda":
                taken = taken.pin_memory().to(self._device, non_blocking=True)
            taken = taken.float()
        return taken.unflatten(0, index.shape)


def stream(
    rows: Rows, batches: Batches, slices: range, steps: range
) -> Iterator[tuple[int, Float[Tensor, "creators two size dim"]]]:
    """Yield each step's rows, and fetch the next step's meanwhile."""

    def fetch(step: int) -> Tensor:
        return rows.take(batches.draw(step, slices))

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
        coming = ahead.submit(fetch, steps.start) if len(steps) else None
        for step in steps:
            assert coming is not None
            batch = coming.result()
            coming = ahead.submit(fetch, step + 1) if step + 1 in steps else None
            yield step, batch
