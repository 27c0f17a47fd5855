"""The two halves of the pipeline, each alone on all cores, in images/s."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from benchmarks.encode_parts import processes
from motif.encoder.encoder import Encoder
from motif.images.decode import decode
from motif.images.fetch import fetch_stream
from motif.images.fetch_errors import FetchError
from motif.images.preprocess import to_pixels, wanted_side
from motif.space import Preprocess

CHUNK = 32


class Decoders:
    """Context: a process per core that fetches, decodes and resizes, and keeps nothing."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess
        self._pool = processes.pool()

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self._pool.shutdown()

    def images_per_second(self, files: Sequence[Path], *, full: bool = False) -> float:
        """Decode all files; `full` does without the DCT-scaled decode."""
        chunks = [
            [str(file) for file in files[start : start + CHUNK]]
            for start in range(0, len(files), CHUNK)
        ]
        side = None if full else wanted_side(self._preprocess)
        ready: set[int] = set()  # a process that is still importing would be timed with the rest
        while len(ready) < processes.cores():
            tried = [
                self._pool.submit(_decode_all, chunks[0][:4], self._preprocess, side)
                for _ in range(processes.cores())
            ]
            ready.update(future.result() for future in tried)
        start = time.perf_counter()
        done = [self._pool.submit(_decode_all, c, self._preprocess, side) for c in chunks]
        for future in done:
            future.result()
        return len(files) / (time.perf_counter() - start)


def _decode_all(uris: list[str], preprocess: Preprocess, side: int | None) -> int:
    """Return the process's id, by which it is known that it has started."""
    for _, data in fetch_stream(uris):
        if isinstance(data, FetchError):
            raise data
        to_pixels(decode(data, shortest_side=side).image, preprocess)
    return os.getpid()


def encoder_images_per_second(
    encoder: Encoder, file: Path, *, batch_size: int, images: int
) -> float:
    """Encode about `images` images in batches, with all cores, after one batch that warms up."""
    torch.set_num_threads(processes.cores())
    pixels = to_pixels(decode(file.read_bytes()).image, encoder.space.preprocess)
    batch = np.stack([np.roll(pixels, shift, axis=1) for shift in range(batch_size)])
    encoder.encode_images(batch)
    batches = max(images // batch_size, 1)
    start = time.perf_counter()
    for _ in range(batches):
        encoder.encode_images(batch)
    return batches * batch_size / (time.perf_counter() - start)
