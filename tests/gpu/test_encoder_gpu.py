"""The encoder on a GPU: the same vectors as on the CPU, from several threads, and short memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from tests import tiny_encoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def name(tmp_path_factory) -> str:
    folder: Path = tmp_path_factory.mktemp("encoders") / "tiny"
    return tiny_encoder.build(folder)


def some_pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


def lowest_cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum(axis=1).min())


@pytest.mark.parametrize("precision", [torch.float32, None])
@pytest.mark.parametrize("compile", [False, True])
def test_gpu_encodes_as_the_cpu_does(name, precision, compile):
    cpu = Encoder(resolve(name), device="cpu", precision=torch.float32, features=True)
    gpu = Encoder(resolve(name), device="cuda", precision=precision, compile=compile, features=True)
    assert gpu.space == cpu.space
    for count in (64, 1, 7):
        pixels = some_pixels(count)
        found, expected = gpu.encode_images(pixels), cpu.encode_images(pixels)
        assert lowest_cosine(found.embedding, expected.embedding) >= 0.999
        # The tower has one stage, so that its features are unit rows, too.
        assert lowest_cosine(found.features, expected.features) >= 0.999


def test_threads_do_not_mix_up_their_batches(name):
    gpu = Encoder(resolve(name), device="cuda", precision=torch.float32)
    batches = [some_pixels(1 + 16 * (seed % 4), seed) for seed in range(100)]
    expected = [gpu.encode_images(batch) for batch in batches]
    for threads in (2, 8):
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(gpu.encode_images, batches))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-3)


def test_batch_is_halved_when_the_gpu_is_full(name):
    gpu = Encoder(resolve(name), device="cuda", precision=torch.float32)
    pixels = some_pixels(1024)  # 600 MB as float32
    expected = gpu.encode_images(pixels)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    allowed = torch.cuda.memory_allocated() + (400 << 20)
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        found = gpu.encode_images(pixels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert gpu._most is not None
    assert gpu._most < 1024
    assert lowest_cosine(found.embedding, expected.embedding) >= 0.999
