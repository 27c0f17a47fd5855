"""How the encoder runs: local folders, memory that runs out, threads, compilation."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from torch import nn

from motif.encoder import compiled
from motif.encoder.encoder import Encoder, OutOfDeviceMemory
from motif.encoder.source import LITE, resolve
from motif.errors import InputError
from tests import tiny_encoder

NEEDS_OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    tiny_encoder.build(folder, image_size=32)
    return folder


@pytest.fixture
def own_copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def tiny(folder) -> Encoder:
    return Encoder(resolve(f"local-dir:{folder}"), precision=torch.float32, features=True)


def some_pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def refusal(name: str) -> str:
    with pytest.raises(InputError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders in open_clip's `local-dir` form.


def test_folder_encodes_as_open_clip_does(folder, tiny):
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    pixels = some_pixels(3)
    mean, std = (torch.tensor(getattr(tiny.space.preprocess, key)) for key in ("mean", "std"))
    batch = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model.encode_image(batch, normalize=True).numpy()
    np.testing.assert_allclose(tiny.encode_images(pixels).embedding, expected, atol=1e-5)
    assert tiny.encode_texts(["a dog"]).shape == (1, 16)


def test_space_does_not_depend_on_where_the_folder_is(folder, own_copy, tiny):
    source = resolve(f"local-dir:{own_copy}")
    assert Encoder(source, precision=torch.float32).space == tiny.space
    assert source.architecture.startswith("custom-")
    assert len(source.architecture) == len("custom-") + 8


def test_lite_s_folder_has_one_name_wherever_it_is(tmp_path):
    own = Path(resolve(LITE).open_clip_name.removeprefix("local-dir:"))
    moved = tmp_path / "moved"
    moved.mkdir()
    config = json.loads((own / "open_clip_config.json").read_text())
    for key in ("hf_model_name", "hf_tokenizer_name"):
        config["model_cfg"]["text_cfg"][key] = str(moved)
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    (moved / "open_clip_model.safetensors").symlink_to(own / "open_clip_model.safetensors")
    first, second = (resolve(f"local-dir:{folder}") for folder in (own, moved))
    assert first.architecture == second.architecture
    assert first.name != second.name


def test_another_model_is_another_architecture(folder, tmp_path):
    other = resolve(tiny_encoder.build(tmp_path / "other", image_size=32, dim=8))
    assert other.architecture != resolve(f"local-dir:{folder}").architecture


def test_other_weights_are_another_space(tiny, tmp_path):
    other = Encoder(resolve(tiny_encoder.build(tmp_path / "other", image_size=32, seed=1)))
    assert other.space.encoder == tiny.space.encoder
    assert other.space.fingerprint != tiny.space.fingerprint


def test_relative_folder_is_found_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    source = resolve("local-dir:tiny")
    assert source.name == source.open_clip_name == f"local-dir:{folder}"
    assert resolve(source.name) == source


@pytest.mark.parametrize("name", ["local-dir:", "local-dir:no/such/folder"])
def test_no_folder(name):
    assert "no such folder" in refusal(name)


def test_file_in_place_of_a_folder(folder):
    assert "no such folder" in refusal(f"local-dir:{folder}/open_clip_config.json")


@pytest.mark.parametrize(
    "config", [None, "", "{", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {"text_cfg": {}}}']
)
def test_folder_without_a_configuration(own_copy, config):
    (own_copy / "open_clip_config.json").unlink()
    if config is not None:
        (own_copy / "open_clip_config.json").write_text(config)
    assert f"{own_copy}/open_clip_config.json" in refusal(f"local-dir:{own_copy}")


@pytest.mark.parametrize("pickle", ["open_clip_pytorch_model.bin", "model.pth", None])
def test_folder_without_safetensors_weights(own_copy, pickle):
    weights = own_copy / "open_clip_model.safetensors"
    if pickle:
        torch.save(safetensors.torch.load_file(weights), own_copy / pickle)
    weights.unlink()
    message = refusal(f"local-dir:{own_copy}")
    assert "open_clip_model.safetensors" in message
    assert (pickle or "[]") in message


def test_pickle_beside_the_weights_is_not_read(own_copy, tiny):
    (own_copy / "open_clip_pytorch_model.bin").write_bytes(b"not to be read")
    source = resolve(f"local-dir:{own_copy}")
    assert Encoder(source, precision=torch.float32).space == tiny.space


def test_folder_with_broken_weights(own_copy):
    (own_copy / "open_clip_model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=str(own_copy)):
        Encoder(resolve(f"local-dir:{own_copy}"))


# Memory that runs out.


class OutOfMemoryAbove(nn.Module):
    """A tower on a device that holds the work of `most` images."""

    def __init__(self, tower: nn.Module, most: int) -> None:
        super().__init__()
        self.tower, self.most, self.sizes = tower, most, []

    def forward(self, pixels):
        self.sizes.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.tower(pixels)


def test_batch_is_halved_until_it_fits_and_stays_so(tiny, caplog):
    pixels = some_pixels(13)
    expected = tiny.encode_images(pixels)
    tiny._tower = tower = OutOfMemoryAbove(tiny._tower, 3)
    with caplog.at_level(logging.WARNING):
        found = tiny.encode_images(pixels)
    assert tower.sizes == [13, 6, 3, 3, 3, 3, 1]
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-6)
    np.testing.assert_allclose(found.features, expected.features, atol=1e-5)
    assert [record.args[1:] for record in caplog.records] == [(13, 6), (6, 3)]
    tower.sizes.clear()
    tiny.encode_images(pixels[:7])
    assert tower.sizes == [3, 3, 1]


def test_memory_for_no_image_at_all_is_refused(tiny):
    tiny._tower = OutOfMemoryAbove(tiny._tower, 0)
    with pytest.raises(OutOfDeviceMemory, match=r"no memory left for a single image") as caught:
        tiny.encode_images(some_pixels(4))
    assert "\n" not in str(caught.value)


def test_other_faults_of_the_device_are_not_caught(tiny):
    class Broken(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    tiny._tower = Broken()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        tiny.encode_images(some_pixels(4))


def test_no_images(tiny):
    found = tiny.encode_images(some_pixels(0))
    assert found.embedding.shape == (0, 16)
    assert found.features.shape == (0, tiny.features_dim)


def test_no_images_and_no_features(folder):
    plain = Encoder(resolve(f"local-dir:{folder}"), precision=torch.float32)
    found = plain.encode_images(some_pixels(0))
    assert found.embedding.shape == (0, 16)
    assert found.features is None


def test_halved_batches_without_features(folder, tiny):
    plain = Encoder(resolve(f"local-dir:{folder}"), precision=torch.float32)
    plain._tower = OutOfMemoryAbove(plain._tower, 2)
    found = plain.encode_images(some_pixels(5))
    assert found.features is None
    expected = tiny.encode_images(some_pixels(5))
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-6)


# Threads and compilation.


def test_two_threads_encode_as_one_does(tiny):
    batches = [some_pixels(1 + seed % 5, seed) for seed in range(40)]
    expected = [tiny.encode_images(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(tiny.encode_images, batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)
        np.testing.assert_allclose(one.features, other.features, atol=1e-5)


def test_bfloat16_weights_are_cast_once(folder, tiny):
    half = Encoder(resolve(f"local-dir:{folder}"), precision=torch.bfloat16)
    types = {name: value.dtype for name, value in half._tower.named_parameters()}
    assert types["_visual.conv1.weight"] == torch.bfloat16
    assert types["_visual.transformer.resblocks.0.attn.in_proj_weight"] == torch.bfloat16
    assert types["_visual.ln_pre.weight"] == torch.float32
    pixels = some_pixels(16)
    cosine = (half.encode_images(pixels).embedding * tiny.encode_images(pixels).embedding).sum(1)
    assert cosine.min() >= 0.999
    assert half.space == tiny.space
    np.testing.assert_array_equal(half.encode_texts(["a dog"]), tiny.encode_texts(["a dog"]))


def assert_same_vectors(fast: Encoder, expected: Encoder) -> None:
    """On batches of several sizes, from a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        for count in (64, 2, 7, 1, 33):
            pixels = some_pixels(count)
            found = pool.submit(fast.encode_images, pixels).result()
            ours = expected.encode_images(pixels)
            np.testing.assert_allclose(found.embedding, ours.embedding, atol=1e-5)
            np.testing.assert_allclose(found.features, ours.features, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.soak
def test_inductor_gives_the_same_vectors_and_compiles_once(folder, tiny):
    fast = Encoder(resolve(f"local-dir:{folder}"), precision=torch.float32, features=True)
    fast._tower = compiled.by_inductor(fast._tower, 32, fast.device)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_same_vectors(fast, tiny)


INDUCTOR = """
import sys
import torch
from motif.command import exit_on_refusal
from motif.encoder import compiled
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
encoder = Encoder(resolve(sys.argv[1]), device="cpu")
with exit_on_refusal():
    compiled.by_inductor(encoder._tower, 32, encoder.device)
"""


@pytest.mark.soak
def test_inductor_without_a_compiler_is_refused(folder, tmp_path):
    environment = {
        **os.environ,
        **{"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
    }
    done = subprocess.run(
        [sys.executable, "-c", INDUCTOR, f"local-dir:{folder}"],
        **{"env": environment, "capture_output": True, "text": True, "timeout": 250},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert "cannot be compiled" in line
    assert "g++" in line


@NEEDS_OPENVINO
def test_openvino_gives_the_same_vectors(folder, tiny):
    source = resolve(f"local-dir:{folder}")
    fast = Encoder(source, device="cpu", precision=torch.float32, compile=True, features=True)
    assert fast.space == tiny.space
    assert_same_vectors(fast, tiny)
    half = Encoder(source, device="cpu", precision=torch.bfloat16, compile=True)
    pixels = some_pixels(16)
    cosine = (half.encode_images(pixels).embedding * tiny.encode_images(pixels).embedding).sum(1)
    assert cosine.min() >= 0.999


@NEEDS_OPENVINO
def test_a_signal_after_openvino_is_handled(folder):
    script = """
import gc, signal, sys
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
one, two = (Encoder(resolve(sys.argv[1]), device="cpu", compile=True) for _ in range(2))
del one
gc.collect()
del two
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.raise_signal(signal.SIGTERM)
"""
    command = [sys.executable, "-c", script, f"local-dir:{folder}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr  # by a stack that is gone, -11


def test_openvino_that_is_not_installed_is_refused(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="pip install") as caught:
        Encoder(resolve(f"local-dir:{folder}"), device="cpu", compile=True)
    assert "\n" not in str(caught.value)
