"""The lite encoder as Motif runs it, against open_clip's own, in images/s, in one process.

.venv/bin/python benchmarks/lite_encoder.py
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import open_clip
import torch

from motif.encoder import lite
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve

BATCH = 64
REPEATS = 5


def images_per_second(run: Callable[[], object]) -> list[float]:
    """Time a batch a few times, after one that warms up."""
    run()
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        rates.append(BATCH / (time.perf_counter() - start))
    return sorted(rates)


def main() -> None:
    """Print median, lowest, highest and the ratio of the medians."""
    size = lite.IMAGE_SIZE
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    bare = open_clip.create_model(f"local-dir:{lite.ensure_built()}").eval()
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    ours = {
        "float32 (default)": Encoder(resolve("lite")),
        "bfloat16": Encoder(resolve("lite"), precision=torch.bfloat16),
    }
    with torch.inference_mode():
        expected = bare.encode_image(batch, normalize=True).numpy()
        base = images_per_second(lambda: bare.encode_image(batch))
    rows = [("open_clip, float32", base, 1.0)]
    for name, encoder in ours.items():
        cosine = (encoder.encode_images(pixels).embedding * expected).sum(axis=1).min()
        rates = images_per_second(lambda encoder=encoder: encoder.encode_images(pixels))
        rows.append((f"Motif, {name}", rates, float(cosine)))
    for name, rates, cosine in rows:
        median = statistics.median(rates)
        sys.stdout.write(
            f"{name:26} {median:6.1f} images/s ({rates[0]:.1f} to {rates[-1]:.1f}),"
            f" {median / statistics.median(base):.2f} x, lowest cosine {cosine:.5f}\n"
        )


if __name__ == "__main__":
    main()
