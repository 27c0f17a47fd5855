"""The bare encoder, as Motif runs it and in other ways, in images/s; all rounds interleaved.

.venv/bin/python benchmarks/encoder.py
.venv/bin/python benchmarks/encoder.py --encoder ViT-B-32    # random weights: no hub is needed
.venv/bin/python benchmarks/encoder.py --features --threads 1    # what the column `features` costs
"""

import functools
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
import tyro
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from motif.encoder import compiled
from motif.encoder.encoder import Encoder
from motif.encoder.source import EncoderSource, preprocess_of_file, resolve
from motif.encoder.tower import ImageTower

Way = Callable[[], np.ndarray]
WITH_FEATURES = " with features"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the image tower alone, in one process."""

    encoder: str = "lite"
    """As of `encode_images`, or an architecture of open_clip's for random weights."""
    batch_size: int = 64
    seconds: float = 20.0
    """For each way, after one batch that warms it up."""
    device: str = ""
    """`cpu` or `cuda`; empty for the best there is."""
    threads: int = 0
    """CPU threads; 0 for as many as torch takes. One, timed in CPU seconds, is what a busy machine
    disturbs least."""
    inductor: bool = False
    """Time TorchInductor on a CPU too; `--compile` there means OpenVINO."""
    features: bool = False
    """Time Motif's ways with `features`, too, and print by how much longer a round of each takes
    than the same round without."""


def main(config: Config) -> None:
    """Print median, best and the ratio of the medians to open_clip's own float32."""
    if config.threads:
        torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as scratch:
        source = _source(config.encoder, Path(scratch))
        ways = _ways(source, config)
    clock = time.process_time if config.threads == 1 else time.perf_counter
    expected = next(iter(ways.values()))()
    cosine = {name: float((run() * expected).sum(axis=1).min()) for name, run in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + config.seconds * len(ways)
    while time.perf_counter() < end:
        for name, run in ways.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    base = statistics.median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        median = statistics.median(taken)
        sys.stdout.write(
            f"{name:42} {config.batch_size / median:8.1f} images/s"
            f" (best {config.batch_size / min(taken):.1f} of {len(taken)}),"
            f" {base / median:.2f} x, lowest cosine {cosine[name]:.5f}\n"
        )
    for name in seconds:
        if (more := seconds.get(name + WITH_FEATURES)) is not None:
            ratios = [longer / time for longer, time in zip(more, seconds[name], strict=True)]
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            sys.stdout.write(
                f"{name + WITH_FEATURES:42} {middle:.3f} times as long"
                f" (quartiles {low:.3f} to {high:.3f} of {len(ratios)} rounds)\n"
            )


def _source(name: str, scratch: Path) -> EncoderSource:
    """Resolve the encoder, after writing random weights where only an architecture is named."""
    if name not in open_clip.list_models():
        return resolve(name)
    torch.manual_seed(0)
    state = open_clip.create_model(name).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, scratch / "w.safetensors")
    return resolve(f"{name}/{scratch / 'w.safetensors'}")


def _ways(source: EncoderSource, config: Config) -> dict[str, Way]:
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    load = functools.partial(Encoder, source, device=device)
    precisions = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    can_compile = device == "cuda" or importlib.util.find_spec("openvino")
    encoders = {
        f"Motif, {name}{', --compile' * compile}{WITH_FEATURES * features}": load(
            precision=precision, compile=compile, features=features
        )
        for compile in ((False, True) if can_compile else (False,))
        for name, precision in precisions.items()
        for features in ((False, True) if config.features else (False,))
    }
    float32, bfloat16 = encoders["Motif, float32"], encoders["Motif, bfloat16"]
    pixels = _pictures(config.batch_size, float32.space.preprocess.size)
    model, _, _ = open_clip.create_model_and_transforms(
        source.open_clip_name, pretrained=source.pretrained, **preprocess_of_file(source)
    )
    bare: Any = model.eval().requires_grad_(False).to(device)
    mean, std = (
        torch.tensor(row, device=device).view(1, 3, 1, 1)
        for row in (float32.space.preprocess.mean, float32.space.preprocess.std)
    )

    @torch.inference_mode()
    def by_open_clip(precision: torch.dtype) -> np.ndarray:
        batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            embedding = bare.encode_image((batch - mean) / std)
        return functional.normalize(embedding.float(), dim=-1).cpu().numpy()

    def by_motif(encoder: Encoder) -> Way:
        return lambda: encoder.encode_images(pixels).embedding

    ways: dict[str, Way] = {
        "open_clip, float32": lambda: by_open_clip(torch.float32),
        "open_clip, bfloat16 by autocast": lambda: by_open_clip(torch.bfloat16),
        **{name: by_motif(encoder) for name, encoder in encoders.items()},
    }
    if device == "cpu" and config.inductor:
        tower = cast(ImageTower, float32._tower)
        run = compiled.by_inductor(tower, pixels.shape[1], float32.device)
        ways["TorchInductor, float32"] = lambda: run(torch.from_numpy(pixels))[0].numpy()
    if device == "cuda":
        resident = torch.from_numpy(pixels).cuda()

        @torch.inference_mode()
        def without_copies() -> np.ndarray:
            return bfloat16._tower(resident)[0].cpu().numpy()

        ways["Motif, bfloat16, pixels on the GPU"] = without_copies
        pool = ThreadPoolExecutor(2)

        def from_two_threads() -> np.ndarray:
            halves = pool.map(bfloat16.encode_images, np.array_split(pixels, 2))
            return np.concatenate([half.embedding for half in halves])

        ways["Motif, bfloat16, two threads' halves"] = from_two_threads
    return ways


def _pictures(count: int, size: int) -> np.ndarray:
    """Draw smooth pictures: noise looks alike to every encoder."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 9, 9, 3), np.uint8)
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((size, size), bicubic)) for one in coarse]
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
