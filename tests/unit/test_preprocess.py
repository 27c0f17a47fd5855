import itertools

import numpy as np
import open_clip
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from PIL import Image

from motif.images.preprocess import MAX_ASPECT_RATIO, to_pixels, wanted_side
from motif.space import Preprocess

MODES = list(itertools.product(["shortest", "squash", "longest"], ["bicubic", "bilinear"]))


def preprocess(size: int, mode: str, interpolation: str, fill: int = 0) -> Preprocess:
    return Preprocess(
        size=size,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        interpolation=interpolation,
        resize_mode=mode,
        fill_color=fill,
    )


def reference(image: Image.Image, size: int, mode: str, interpolation: str, fill: int = 0):
    """open_clip's own transform, up to its conversion to a tensor."""
    config = PreprocessCfg(
        size=size, resize_mode=mode, interpolation=interpolation, fill_color=fill
    )
    for step in image_transform_v2(config, is_train=False).transforms:
        if isinstance(step, MaybeToTensor):
            return np.asarray(image)
        image = step(image)
    raise AssertionError("open_clip's transform has no conversion to a tensor")


def assert_close(found: np.ndarray, expected: np.ndarray, *, mean: float = 0.02) -> None:
    """Equal but for rounding: each sums its fixed-point weights with its own precision."""
    assert found.shape == expected.shape
    apart = np.abs(found.astype(int) - expected)
    assert apart.max(initial=0) <= 2
    assert apart.mean() <= mean


def noise(seed: int, width: int, height: int) -> Image.Image:
    """Mid greys: the overshoot of black next to white is clipped between the two passes."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(64, 192, (height, width, 3), np.uint8)
    )


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    size=st.sampled_from([16, 37, 64, 224]),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    seed=st.integers(0, 1000),
    fill=st.sampled_from([0, 127, 255]),
)
def test_equals_open_clip_but_for_rounding(mode, size, width, height, seed, fill):
    # Beyond these open_clip raises (a side rounds to nothing) or takes gigabytes: see below.
    short, long = sorted((width, height))
    assume(long <= (MAX_ASPECT_RATIO if mode[0] == "shortest" else size) * short)
    image = noise(seed, width, height)
    found = to_pixels(image, preprocess(size, *mode, fill))
    assert_close(found, reference(image, size, *mode, fill), mean=0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("width", "height"),
    [
        (1080, 1080),
        (1080, 1350),
        (1350, 1080),
        (224, 224),
        (225, 224),
        (3001, 2000),  # Pillow keeps it in several blocks
        (224, 1),
        (5, 7),
    ],
)
def test_equals_open_clip_on_sizes_that_are_common(mode, width, height):
    image = noise(1, width, height)
    assert_close(to_pixels(image, preprocess(224, *mode)), reference(image, 224, *mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (3, 100_000)])
def test_a_thread_of_an_image_takes_little_memory(mode, shape):
    # Resized as open_clip does, 1 x 60,000 pixels would become 224 x 13,440,000.
    image = Image.new("RGB", shape, (200, 100, 50))
    found = to_pixels(image, preprocess(224, *mode))
    assert found.shape == (224, 224, 3)
    assert (found == [200, 100, 50]).all(axis=2).any()


def test_long_image_keeps_its_centre():
    values = np.zeros((4, 4000, 3), np.uint8)
    values[:, 1900:2100] = 255
    found = to_pixels(Image.fromarray(values), preprocess(32, "shortest", "bicubic"))
    assert found.min() == 255


def test_result_shares_no_memory_with_an_image_of_the_encoders_size():
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    found = to_pixels(image, preprocess(32, "squash", "bicubic"))
    found[:] = 0
    assert image.getpixel((0, 0)) == (200, 100, 50)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("mode", MODES)
def test_side_wanted_of_a_scaled_decode_is_a_multiple_of_the_encoders(mode):
    assert wanted_side(preprocess(224, *mode)) == 12 * 224
