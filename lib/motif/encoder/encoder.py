"""Loading an encoder by name, and encoding images and texts with it."""

import contextlib
import hashlib
import logging
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import open_clip.hf_model
import open_clip.timm_model
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Float, UInt8
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor
from torch.nn import functional

from motif.encoder import lite
from motif.encoder.fold import fold_batch_norms
from motif.errors import InputError
from motif.space import Preprocess, Space

log = logging.getLogger(__name__)

LITE = "lite"
HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class EncoderSource:
    """What `--encoder` names, checked but not yet loaded."""

    name: str
    """What `--encoder` would be from any folder."""
    architecture: str
    """Name for the space: open_clip's, or `lite`."""
    open_clip_name: str
    pretrained: str | None
    """A tag, a file, or None where the name holds the weights."""


def resolve(name: str) -> EncoderSource:
    """Find what `--encoder` names, without a long wait.

    Args:
        name: `lite`, `NAME/PRETRAINED` (a tag that open_clip knows) or `NAME/FILE`.

    Raises:
        InputError: Unknown architecture or tag, no such file, or the hub cannot be reached.
    """
    if name == LITE:
        return EncoderSource(LITE, LITE, f"local-dir:{lite.ensure_built()}", None)
    architecture, _, pretrained = name.partition("/")
    if architecture not in open_clip.list_models():
        close = [m for m in open_clip.list_models() if m.lower().startswith(architecture.lower())]
        raise InputError(
            f"--encoder {name}: open_clip knows no model {architecture!r}"
            f" (close: {close[:5]}); use NAME/PRETRAINED, NAME/FILE or lite"
        )
    if Path(pretrained).is_file():
        file = str(Path(pretrained).absolute())
        return EncoderSource(f"{architecture}/{file}", architecture, architecture, file)
    tags = list_pretrained_tags_by_model(architecture)
    if pretrained not in tags:
        raise InputError(
            f"--encoder {name}: {pretrained!r} is neither a file nor a pretrained tag of"
            f" {architecture} (tags: {', '.join(tags[:8])}); use NAME/PRETRAINED, NAME/FILE or lite"
        )
    config = get_pretrained_cfg(architecture, pretrained)
    quick = f"{architecture}-quickgelu"
    if config.get("quick_gelu") and pretrained in list_pretrained_tags_by_model(quick):
        # open_clip only warns, and then encodes with another activation than the weights know.
        log.info("%s is trained with QuickGELU; taken as %s/%s", name, quick, pretrained)
        architecture = quick
    _require_reachable(name, config)
    return EncoderSource(name, architecture, architecture, pretrained)


def _require_reachable(name: str, config: dict[str, Any]) -> None:
    """Ask the hub once: left alone, open_clip retries for minutes before it gives up."""
    # Either `owner/name/` or `owner/name/file`.
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if not repository:
        _require_url(name, config["url"])
        return
    file = file or open_clip.constants.HF_WEIGHTS_NAME
    safe = (
        open_clip.constants.HF_SAFE_WEIGHTS_NAME
        if file == open_clip.constants.HF_WEIGHTS_NAME
        else str(Path(file).with_suffix(".safetensors"))
    )
    files = file, safe
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    for file in reversed(files):
        try:
            get_hf_file_metadata(
                hf_hub_url(repository, file),
                timeout=HUB_TIMEOUT_SECONDS,
                retry_on_errors=False,
            )
        except HfHubHTTPError:
            continue  # the hub answers, only not with this file
        except Exception as error:  # whatever the HTTP client of the day raises
            raise _unreachable(name, constants.ENDPOINT, error) from error
        return
    raise InputError(f"--encoder {name}: {repository} on {constants.ENDPOINT} holds no weights")


def _require_url(name: str, url: str) -> None:
    """Ask a plain web server for weights that open_clip has not cached: it would wait for ever."""
    if (Path.home() / ".cache" / "clip" / url.rsplit("/", 1)[-1]).is_file():
        return
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(name, url, error) from error


def _unreachable(name: str, where: str, error: Exception) -> InputError:
    return InputError(
        f"--encoder {name}: the weights cannot be reached at {where} ({type(error).__name__}); pass"
        " a checkpoint as NAME/FILE, fill the Hugging Face cache on a machine with access, or use"
        " --encoder lite"
    )


def best_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Emulated bfloat16 is slower than float32.
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


@dataclass(frozen=True)
class Encoded:
    """A batch of encoded images."""

    embedding: Float[np.ndarray, "batch dim"]
    """Unit rows."""
    features: Float[np.ndarray, "batch features"]
    """What the image tower pools, before its projection; not normalised."""


class Encoder:
    """A frozen image-text model on one device."""

    def __init__(
        self,
        source: EncoderSource,
        *,
        device: str | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        """Load the model.

        Args:
            source: From `resolve`.
            device: `cuda`, `cpu` or None for the best there is.
            precision: Of the image tower's arithmetic; None for `best_precision`, or float32 for
                the lite encoder.

        Raises:
            InputError: The weights do not fit the architecture, or cannot be loaded.
        """
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # In bfloat16 a photo of ten strays from its float32 embedding by a cosine of .993.
        exact = source.architecture == LITE
        self.precision = precision or (torch.float32 if exact else best_precision(self.device))
        # open_clip logs each step of its own at INFO, on the root logger.
        with _quiet_root_logger():
            try:
                model, _, _ = open_clip.create_model_and_transforms(
                    source.open_clip_name,
                    pretrained=source.pretrained,
                    weights_only=True,
                    require_pretrained=True,
                    **_preprocess_of_file(source),
                )
                self._tokenizer = open_clip.get_tokenizer(source.open_clip_name)
            except Exception as error:  # whatever torch, pickle and the hub make of a stray file
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise InputError(
                    f"encoder {source.architecture}: weights {source.pretrained or ''} cannot be"
                    f" loaded; are they of this architecture? {reason}"
                ) from error
        # open_clip's towers share no typed interface.
        visual: Any = model.visual
        preprocess = _preprocess(visual.preprocess_cfg)
        self._model: Any = model.eval().requires_grad_(False)
        weights_sha256 = _hash_weights(model)
        if fold_batch_norms(visual, torch.zeros(1, 3, preprocess.size, preprocess.size)):
            visual.to(memory_format=torch.channels_last)
        self._model.to(self.device)
        self._mean = torch.tensor(preprocess.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocess.std, device=self.device).view(1, 3, 1, 1) * 255
        black = np.zeros((1, preprocess.size, preprocess.size, 3), np.uint8)
        probe = self.encode_images(black)
        self.features_dim = probe.features.shape[1]
        self.space = Space(
            encoder=source.architecture,
            weights_sha256=weights_sha256,
            preprocess=preprocess,
            dim=probe.embedding.shape[1],
        )

    @torch.inference_mode()
    def encode_images(self, pixels: UInt8[np.ndarray, "batch size size 3"]) -> Encoded:
        """Encode uint8 RGB images of the encoder's own size."""
        on_device = torch.from_numpy(pixels).to(self.device, non_blocking=True)
        batch = (on_device.permute(0, 3, 1, 2).float() - self._mean) / self._std
        with torch.autocast(self.device.type, self.precision, self.precision != torch.float32):
            features, embedding = self._image_tower(batch)
        unit = functional.normalize(embedding.float(), dim=-1)
        return Encoded(unit.cpu().numpy(), features.float().cpu().numpy())

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Float[np.ndarray, "texts dim"]:
        """Encode texts, in float32, to unit rows."""
        rows = [
            self._model.encode_text(self._tokens(texts[start : start + 256]), normalize=True).cpu()
            for start in range(0, len(texts), 256)
        ]
        return torch.cat(rows).float().numpy()

    def _tokens(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts).to(self.device)
        text: Any = getattr(self._model, "text", None)
        if type(text) is open_clip.hf_model.HFTextEncoder:
            # It masks padding, so columns that are all padding cost time and change nothing.
            padding: int = text.config.pad_token_id  # type: ignore[attr-defined]
            used = (tokens != padding).any(dim=0)
            tokens = tokens[:, used]
        return tokens

    def _image_tower(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        visual = self._model.visual
        if isinstance(visual, open_clip.timm_model.TimmModel):
            features = visual.trunk(batch)
            return features, visual.head(features)
        projection = getattr(visual, "proj", None)
        if projection is None:
            # No projection to stop before (ModifiedResNet pools and projects in one layer).
            embedding = self._model.encode_image(batch)
            return embedding, embedding
        visual.proj = None
        try:
            features = visual(batch)
        finally:
            visual.proj = projection
        if isinstance(features, tuple):
            features = features[0]  # CoCa's tower also returns its tokens
        return features, features @ projection


def _preprocess_of_file(source: EncoderSource) -> dict[str, Any]:
    """Return what all tags of the architecture agree on; open_clip takes CLIP's for any file."""
    if source.pretrained is None or not Path(source.pretrained).is_file():
        return {}
    tags = list_pretrained_tags_by_model(source.architecture)
    configs = [get_pretrained_cfg(source.architecture, tag) for tag in tags]
    agreed = {}
    for name in ("mean", "std", "interpolation", "resize_mode"):
        values = {config.get(name) for config in configs} - {None}
        if len(values) == 1:
            agreed[f"image_{name}"] = values.pop()
    return agreed


def _preprocess(config: dict[str, Any]) -> Preprocess:
    size = config["size"]
    if isinstance(size, (list, tuple)):
        if size[0] != size[1]:
            raise InputError(f"encoders with images that are not square ({size}) are not supported")
        size = size[0]
    return Preprocess(
        size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize_mode=config["resize_mode"],
        fill_color=config["fill_color"],
    )


def _hash_weights(model: torch.nn.Module) -> str:
    """Hash all weights as float32 by name, so that the file's format does not matter."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if value.is_floating_point():
            digest.update(name.encode())
            digest.update(value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet_root_logger():
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
