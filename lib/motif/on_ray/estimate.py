"""What a run would take, from a timed sample in this process."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from motif.encoder.encoder import Encoder
from motif.images.decode import DecodeError, decode
from motif.images.fetch import FetchLimits, fetch_all
from motif.images.fetch_errors import FetchError
from motif.images.preprocess import to_pixels, wanted_side


@dataclass(frozen=True)
class Timing:
    """Seconds per image of this process: one thread decodes, the encoder takes the machine."""

    sampled: int = 0
    failed: int = 0
    fetch_seconds: float = 0.0
    """With many reads in flight."""
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0

    def run_seconds(self, images: int, *, cpus: int, gpus: int, encoders: int) -> float:
        """Return about how long a cluster takes, start-up apart."""
        prepare = max(self.fetch_seconds, self.decode_seconds / max(cpus, 1))
        encode = self.encode_seconds / max(encoders, 1)
        # On GPUs decoding and encoding overlap; on CPUs they share the cores.
        return images * (max(prepare, encode) if gpus else prepare + encode)


def time_sample(
    rows: pa.Table, encoder: Encoder, *, limits: FetchLimits, full_decode: bool
) -> Timing:
    """Fetch, decode and encode the images of some rows of IMAGES, and take the time."""
    if not rows.num_rows:
        return Timing()
    preprocess = encoder.space.preprocess
    side = None if full_decode else wanted_side(preprocess)
    start = time.perf_counter()
    fetched = fetch_all(rows["uri"].to_pylist(), limits)
    between = time.perf_counter()
    pixels = []
    for data in fetched:
        try:
            if not isinstance(data, FetchError):
                image = decode(data, shortest_side=side).image
                pixels.append(to_pixels(image, preprocess))
        except DecodeError:
            continue
    decoded = time.perf_counter() - between
    encode_seconds = 0.0
    if pixels:
        batch = np.stack(pixels)
        encoder.encode_images(batch)  # the first call is slower
        begin = time.perf_counter()
        encoder.encode_images(batch)
        encode_seconds = (time.perf_counter() - begin) / len(pixels)
    return Timing(
        sampled=rows.num_rows,
        failed=rows.num_rows - len(pixels),
        fetch_seconds=(between - start) / rows.num_rows,
        decode_seconds=decoded / rows.num_rows,
        encode_seconds=encode_seconds,
    )
