import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import skimage.data
import sklearn.datasets
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

from motif.encoder import lite
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError
from motif.images.preprocess import to_pixels

CAPTIONS = [
    "a photo of a cat",
    "a photo of a dog",
    "a cup of coffee",
    "a rocket launch",
    "an astronaut in a space suit",
    "a photographer with a camera",
    "coins",
    "a brick wall",
    "a page of text in a book",
    "a chinese temple",
    "a flower",
    "a car",
    "a plate of food",
    "a bird",
]
CAPTION_OF = {
    "chelsea": "a photo of a cat",
    "coffee": "a cup of coffee",
    "rocket": "a rocket launch",
    "astronaut": "an astronaut in a space suit",
    "camera": "a photographer with a camera",
    "coins": "coins",
    "brick": "a brick wall",
    "page": "a page of text in a book",
    "china.jpg": "a chinese temple",
    "flower.jpg": "a flower",
}


@pytest.fixture(scope="module")
def photos() -> dict[str, Image.Image]:
    samples = sklearn.datasets.load_sample_images()
    names = [Path(name).name for name in samples.filenames]
    arrays = dict(zip(names, samples.images, strict=True))
    for name in CAPTION_OF:
        if name not in arrays:
            arrays[name] = getattr(skimage.data, name)()
    return {name: Image.fromarray(arrays[name]).convert("RGB") for name in CAPTION_OF}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(resolve("lite"), precision=torch.float32, features=True)


@pytest.fixture(scope="module")
def pixels(encoder, photos) -> np.ndarray:
    return np.stack([to_pixels(photo, encoder.space.preprocess) for photo in photos.values()])


@pytest.fixture(scope="module")
def embeddings(encoder, pixels) -> np.ndarray:
    return encoder.encode_images(pixels).embedding


def test_shapes_and_units(encoder, embeddings):
    assert embeddings.shape == (10, lite.EMBEDDING_DIM)
    assert encoder.features_dim == 16 + 24 + 48 + 88 + 120 + 208 + 352
    assert encoder.space.dim == lite.EMBEDDING_DIM
    assert encoder.space.encoder == "lite"
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_nine_of_ten_photos_find_their_caption(encoder, embeddings):
    # These ten also chose the recipe's ridge strength: a smoke test, not a measurement.
    texts = encoder.encode_texts(CAPTIONS)
    best = [CAPTIONS[i] for i in (embeddings @ texts.T).argmax(axis=1)]
    right = [found == wanted for found, wanted in zip(best, CAPTION_OF.values(), strict=True)]
    assert sum(right) >= 9, dict(zip(CAPTION_OF, best, strict=True))


def test_nine_of_ten_captions_find_their_photo(encoder, embeddings):
    texts = encoder.encode_texts(list(CAPTION_OF.values()))
    assert ((texts @ embeddings.T).argmax(axis=1) == np.arange(10)).sum() >= 9


def test_precision_by_default_stays_within_the_cosine(pixels, embeddings):
    found = Encoder(resolve("lite")).encode_images(pixels)
    assert (found.embedding * embeddings).sum(axis=1).min() >= 0.999


def test_bfloat16_is_correct_but_coarse(pixels, embeddings):
    # Not within the gate of .999 (.993 at worst on these), and so not what the encoder takes.
    found = Encoder(resolve("lite"), precision=torch.bfloat16).encode_images(pixels)
    assert found.embedding.dtype == np.float32
    assert (found.embedding * embeddings).sum(axis=1).min() >= 0.98
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-5)


def test_precision_is_no_part_of_the_space(encoder):
    assert Encoder(resolve("lite"), precision=torch.bfloat16).space == encoder.space


def test_batches_do_not_change_embeddings(encoder, pixels, embeddings):
    singles = np.concatenate([encoder.encode_images(p[None]).embedding for p in pixels])
    assert (singles * embeddings).sum(axis=1).min() >= 0.99999


def test_loads_through_open_clip_alone(encoder, photos, embeddings):
    name = f"local-dir:{lite.ensure_built()}"
    model = open_clip.create_model(name).eval()
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    tokens = open_clip.get_tokenizer(name)(CAPTIONS)
    with torch.inference_mode():
        batch = torch.stack([transform(photo) for photo in photos.values()])
        images = model.encode_image(batch, normalize=True).numpy()
        texts = model.encode_text(tokens, normalize=True).numpy()
    # Our pixels are resized by torch's filter, open_clip's by Pillow's: a grey level apart here
    # and there.
    assert (images * embeddings).sum(axis=1).min() >= 0.9999
    assert (texts * encoder.encode_texts(CAPTIONS)).sum(axis=1).min() >= 0.99999


def test_texts_are_minilm_s_own(encoder):
    # The text tower's weights and tokenizer through transformers alone, text by text.
    folder = lite.ensure_built()
    weights = load_file(folder / "open_clip_model.safetensors")
    config = transformers.AutoConfig.from_pretrained(folder)
    tower = transformers.AutoModel.from_config(config, add_pooling_layer=False).eval()
    prefix = "text.transformer."
    tower.load_state_dict(
        {k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)}
    )
    assert {k for k in weights if k.startswith("text.")} <= {
        f"{prefix}{k}" for k in tower.state_dict()
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [
            tower(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(dim=1)
            for text in CAPTIONS
        ]
    expected = torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), expected, atol=1e-3)


def test_joint_projection_is_ridge_regression():
    # Ridge regression as least squares over W with the rows sqrt(a) I appended, then the mean out.
    rng = np.random.default_rng(0)
    classifier, texts = rng.normal(size=(40, 12)), rng.normal(size=(40, 5)) + 1
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    centred = classifier - classifier.mean(axis=0)
    mean = texts.mean(axis=0)
    strength = 10 * np.linalg.norm(centred) ** 2 / 12
    rows = np.vstack([centred, np.sqrt(strength) * np.eye(12)])
    targets = np.vstack([texts - mean, np.zeros((12, 5))])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    expected = expected @ (np.eye(5) - np.outer(mean, mean) / (mean @ mean))
    found = lite.joint_projection(torch.from_numpy(classifier), torch.from_numpy(texts)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(found @ mean, 0, atol=1e-10)


@pytest.mark.parametrize("pinned", ["IMAGE_WHEEL_SHA256", "TEXT_WHEEL_SHA256"])
def test_wheel_of_another_hash_is_refused(tmp_path, monkeypatch, pinned):
    monkeypatch.setenv("MOTIF_CACHE", str(tmp_path))
    monkeypatch.setattr(lite, pinned, "0" * 64)
    with pytest.raises(InputError, match=r"0\.1\.0") as caught:
        resolve("lite")
    message = str(caught.value)
    assert "hash" in message.lower()
    assert "\n" not in message
    assert len(message) < 600
    assert list(tmp_path.iterdir()) == []


def test_cache_that_was_moved_still_loads(tmp_path, monkeypatch, encoder):
    moved = tmp_path / f"lite-v{lite.RECIPE_VERSION}"
    moved.mkdir()
    for file in lite.ensure_built().iterdir():
        (moved / file.name).symlink_to(file)
    config = json.loads((moved / "open_clip_config.json").read_text())
    (moved / "open_clip_config.json").unlink()
    for key in ("hf_model_name", "hf_tokenizer_name"):
        config["model_cfg"]["text_cfg"][key] = str(tmp_path / "gone")
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    monkeypatch.setenv("MOTIF_CACHE", str(tmp_path))
    assert Encoder(resolve("lite")).space == encoder.space
