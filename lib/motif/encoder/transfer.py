"""Getting pixels onto the device while it computes something else."""

import contextlib
import threading
from contextlib import AbstractContextManager

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


class Transfer:
    """On a GPU, a stream and a page-locked buffer for each thread; on a CPU, nothing.

    A thread copies, computes and reads its results on its own stream, so that it waits for its
    own work alone, and its copies run while another thread's batch computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_thread = threading.local()
        if device.type == "cuda":
            # Weights are written on the default stream, which the threads' streams do not await.
            torch.cuda.synchronize(device)

    def stream(self) -> AbstractContextManager[object]:
        """Enter this thread's stream."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream(self._device)
        return torch.cuda.stream(self._of_thread.stream)

    def to_device(self, pixels: UInt8[np.ndarray, "..."]) -> UInt8[Tensor, "..."]:
        """Copy to the device, on a GPU without waiting; to be called within `stream`.

        The thread must have read the results of its last batch, and so waited for its stream,
        before it calls again: the buffer is used anew.
        """
        rows = torch.from_numpy(pixels)
        if self._device.type != "cuda":
            return rows
        buffer: Tensor | None = getattr(self._of_thread, "buffer", None)
        if buffer is None or buffer.numel() < rows.numel():
            buffer = torch.empty(rows.numel(), dtype=torch.uint8, pin_memory=True)
            self._of_thread.buffer = buffer
        staged = buffer[: rows.numel()].view(rows.shape)
        staged.copy_(rows)
        return staged.to(self._device, non_blocking=True)
