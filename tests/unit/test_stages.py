"""`features` are the spatial means of the stages, here taken by hooks on open_clip's own towers."""

import functools
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from motif.encoder import stages
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.encoder.tower import ImageTower
from motif.space import Preprocess

NEEDS_OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO"
)


TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "twelve-blocks": {"image_size": 32, "patch_size": 8, "layers": 12, "width": 32},
    "modified-resnet": {"image_size": 64, "patch_size": None, "layers": [1, 2, 1, 1], "width": 16},
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("architectures")
    for name, vision in VISION.items():
        config = {"embed_dim": 16, "vision_cfg": {"head_width": 16, **vision}, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    before = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


@functools.cache
def load(name: str) -> Encoder:
    return Encoder(resolve(name), device="cpu", precision=torch.float32, features=True)


def some_pixels(encoder: Encoder, count: int = 3) -> np.ndarray:
    size = encoder.space.preprocess.size
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def images(encoder: Encoder, pixels: np.ndarray) -> Tensor:
    mean, std = (torch.tensor(getattr(encoder.space.preprocess, key)) for key in ("mean", "std"))
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)


def outputs(tower: nn.Module, modules: Sequence[str], batch: Tensor) -> list[Tensor]:
    """Return what modules of a tower put out, by hooks, before anything works on it in place."""
    found: list[Tensor] = []
    for name in modules:
        tower.get_submodule(name).register_forward_hook(
            lambda *made: found.append(made[-1].clone())
        )
    with torch.inference_mode():
        tower(batch)
    return found


def expected_features(tower: nn.Module, modules: Sequence[str], batch: Tensor) -> np.ndarray:
    parts = []
    for made in outputs(tower, modules, batch):
        # (batch, width, height, width in space), or (batch, class token and patches, width).
        mean = (made.flatten(2).mean(2) if made.ndim == 4 else made[:, 1:].mean(1)).numpy()
        parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(parts, axis=1)


def randomise(model: nn.Module) -> None:
    """Give the normalisations, which are folded, statistics that are not those of a fresh one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def write_weights(name: str, folder: Path) -> str:
    """Save random weights of an architecture of open_clip's; returns what `--encoder` is."""
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    randomise(model)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "w.safetensors")
    return f"{name}/{folder / 'w.safetensors'}"


def bare_tower(encoder: str) -> nn.Module:
    """Load a tower as open_clip has it: nothing is folded into anything."""
    source = resolve(encoder)
    model: Any = open_clip.create_model(source.open_clip_name, pretrained=source.pretrained)
    return model.visual.eval()


def require_features(name: str, modules: Sequence[str], dim: int) -> None:
    encoder = load(name)
    pixels = some_pixels(encoder)
    found = encoder.encode_images(pixels)
    assert encoder.features_dim == dim
    expected = expected_features(bare_tower(name), modules, images(encoder, pixels))
    assert expected.shape == (3, dim)
    np.testing.assert_allclose(found.features, expected, atol=2e-5)
    lengths = np.linalg.norm(found.features, axis=1)
    np.testing.assert_allclose(lengths, len(modules) ** 0.5, rtol=1e-5)


def test_lite_has_its_seven_blocks():
    blocks = [f"trunk.blocks.{n}" for n in range(7)]
    require_features("lite", blocks, 16 + 24 + 48 + 88 + 120 + 208 + 352)


def test_vit_has_four_blocks_evenly_spaced(tmp_path):
    blocks = [f"transformer.resblocks.{n}" for n in (2, 5, 8, 11)]
    require_features(write_weights("twelve-blocks", tmp_path), blocks, 4 * 32)


def test_resnet_of_open_clip_has_its_stem_and_four_layers(tmp_path):
    # The stem's own output is that of its last pooling.
    layers = ["avgpool", "layer1", "layer2", "layer3", "layer4"]
    require_features(write_weights("modified-resnet", tmp_path), layers, 16 + 64 + 128 + 256 + 512)


@pytest.mark.parametrize(
    ("architecture", "modules", "dim"),
    [
        ("vit_tiny_patch16_224", [f"trunk.blocks.{n}" for n in (2, 5, 8, 11)], 4 * 192),
        ("convnext_atto", [f"trunk.stages.{n}" for n in range(4)], 40 + 80 + 160 + 320),
    ],
)
def test_towers_of_timm(architecture, modules, dim):
    torch.manual_seed(0)
    visual = open_clip.timm_model.TimmModel(architecture, 16, 64, pool="").eval()
    size = visual.trunk.default_cfg["input_size"][-1]
    batch = torch.randn(2, 3, size, size)
    options = stages.choose(visual, batch[:1])
    assert options is not None
    with torch.inference_mode():
        embedding, made = stages.embed(visual, batch, options)
        assert torch.equal(embedding, visual(batch))
    expected = [
        one if one.ndim == 4 else one[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
        for one in outputs(visual, modules, batch)
    ]
    assert [one.shape for one in made] == [one.shape for one in expected]
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert stages.unit_means(made).shape == (2, dim)


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (14, [2, 6, 9, 13]), (2, [0, 1]), (1, [0])],
)
def test_blocks_that_are_chosen_of_a_vit(blocks, chosen):
    visual = open_clip.transformer.VisionTransformer(16, 8, 16, blocks, 2, 1.0, output_dim=4)
    assert stages.choose(visual, torch.zeros(1, 3, 16, 16)) == {"indices": chosen}


def test_a_stage_that_is_zero_stays_zero():
    found = stages.unit_means([torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 2, 2)])
    assert found.tolist() == [[0, 0, 0, 0.5, 0.5, 0.5, 0.5]] * 2


def test_means_are_taken_in_float32():
    # 10,000 ones and a half: bfloat16 would stop counting at 256.
    stage = torch.ones(1, 2, 100, 100, dtype=torch.bfloat16)
    stage[:, 1] = 0.5
    found = stages.unit_means([stage])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0]]) / 5**0.5)


class Flat(nn.Module):
    """A tower that does not give its stages away."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 2)

    def forward(self, batch: Tensor) -> Tensor:
        return self.proj(batch.mean((2, 3)))


PREPROCESS = Preprocess(
    size=4, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="squash"
)


def test_tower_that_tells_no_stages_has_its_embedding():
    tower = ImageTower(Flat(), PREPROCESS, precision=torch.float32, features=True)
    pixels = torch.randint(0, 256, (3, 4, 4, 3), dtype=torch.uint8)
    with torch.inference_mode():
        embedding, features = tower(pixels)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    assert torch.equal(features, embedding)


@pytest.mark.soak
@NEEDS_OPENVINO
def test_openvino_s_features_are_the_same(tmp_path):
    """Of convolutions with their normalisations folded, and of attention."""
    for name in ("lite", write_weights("twelve-blocks", tmp_path)):
        plain = load(name)
        fast = Encoder(
            resolve(name), device="cpu", precision=torch.float32, compile=True, features=True
        )
        pixels = some_pixels(plain, 5)
        found, expected = fast.encode_images(pixels), plain.encode_images(pixels)
        np.testing.assert_allclose(found.features, expected.features, atol=1e-4)
        np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-4)


def test_bfloat16_stays_near(tmp_path):
    name = write_weights("twelve-blocks", tmp_path)
    plain = load(name)
    half = Encoder(resolve(name), device="cpu", precision=torch.bfloat16, features=True)
    pixels = some_pixels(plain)
    found, expected = half.encode_images(pixels), plain.encode_images(pixels)
    assert (found.embedding * expected.embedding).sum(1).min() >= 0.999
    assert (found.features * expected.features).sum(1).min() / 4 >= 0.999
