"""A loaded encoder, and encoding images and texts with it."""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import open_clip.hf_model
import open_clip.timm_model
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from motif.encoder import compiled
from motif.encoder.compiled import Tower
from motif.encoder.fold import fold_batch_norms
from motif.encoder.source import LITE, EncoderSource, preprocess_of_file
from motif.encoder.tower import ImageTower
from motif.encoder.transfer import Transfer
from motif.errors import InputError, MotifError
from motif.space import Preprocess, Space

log = logging.getLogger(__name__)


def best_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Emulated bfloat16 is slower than float32.
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


class OutOfDeviceMemory(MotifError):
    """The device's memory does not hold the work of one image."""


@dataclass(frozen=True)
class Encoded:
    """A batch of encoded images."""

    embedding: Float[np.ndarray, "batch dim"]
    """Unit rows."""
    features: Float[np.ndarray, "batch features"] | None
    """The spatial mean of each stage of the image tower, at unit length, one after the other, so
    that a row is as long as the square root of their number; None where they are not wanted."""


class Encoder:
    """A frozen image-text model on one device; several threads may encode with it at once."""

    def __init__(
        self,
        source: EncoderSource,
        *,
        device: str | None = None,
        precision: torch.dtype | None = None,
        compile: bool = False,
        features: bool = False,
    ) -> None:
        """Load the model.

        Args:
            source: From `resolve`.
            device: `cuda`, `cpu` or None for the best there is.
            precision: Of the image tower's arithmetic; None for `best_precision`, or float32 for
                the lite encoder.
            compile: Compile the image tower for this machine, which takes up to a minute: by
                OpenVINO on a CPU, by TorchInductor on a GPU. The space stays the same.
            features: Return them, too, with the embeddings of images.

        Raises:
            InputError: The weights do not fit the architecture, or cannot be loaded; or what
                compiling needs is not installed.
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
                    **preprocess_of_file(source),
                )
                self._tokenizer = open_clip.get_tokenizer(source.open_clip_name)
            except Exception as error:  # whatever torch, pickle and the hub make of a stray file
                raise InputError(
                    f"encoder {source.architecture}: weights {source.pretrained or source.name}"
                    f" cannot be loaded; are they of this architecture? {_one_line(error)}"
                ) from error
        # open_clip's towers share no typed interface.
        visual: Any = model.visual
        preprocess = _preprocess(visual.preprocess_cfg)
        self._model: Any = model.eval().requires_grad_(False)
        weights_sha256 = _hash_weights(model)
        if fold_batch_norms(visual, torch.zeros(1, 3, preprocess.size, preprocess.size)):
            visual.to(memory_format=torch.channels_last)
        self._model.to(self.device)
        self._tower = self._make_tower(visual, preprocess, compile=compile, features=features)
        self._transfer = Transfer(self.device)
        self._most: int | None = None  # images that fit into the device's memory at once
        self._lock = threading.Lock()
        black = np.zeros((1, preprocess.size, preprocess.size, 3), np.uint8)
        probe = self.encode_images(black)
        self.features_dim = None if probe.features is None else probe.features.shape[1]
        self.space = Space(
            encoder=source.architecture,
            weights_sha256=weights_sha256,
            preprocess=preprocess,
            dim=probe.embedding.shape[1],
        )

    def _make_tower(
        self, visual: Any, preprocess: Preprocess, *, compile: bool, features: bool
    ) -> Tower:
        by_openvino = compile and self.device.type == "cpu"
        # OpenVINO lowers the precision itself.
        precision = torch.float32 if by_openvino else self.precision
        tower = ImageTower(visual, preprocess, precision=precision, features=features)
        tower.to(self.device).eval()
        if by_openvino:
            with _quiet_root_logger():  # it logs every operation that it need not decompose
                return compiled.by_openvino(tower, preprocess.size, self.precision)
        if compile:
            return compiled.by_inductor(tower, preprocess.size, self.device)
        return tower

    def encode_images(self, pixels: UInt8[np.ndarray, "batch size size 3"]) -> Encoded:
        """Encode uint8 RGB images of the encoder's own size, in parts where memory is short.

        Raises:
            OutOfDeviceMemory: The device's memory does not even hold one image's work.
        """
        if len(pixels) == 0:
            return _encoded(
                np.zeros((0, dim), np.float32)
                for dim in (self.space.dim, self.features_dim)
                if dim is not None
            )
        parts: list[list[np.ndarray]] = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + (self._most or len(pixels))]
            try:
                parts.append(self._encode(part))
            except torch.OutOfMemoryError:
                pass  # the exception holds the failed part's tensors until this block is left
            else:
                start += len(part)
                continue
            self._halve(len(part))
        return _encoded(np.concatenate(rows) for rows in zip(*parts, strict=True))

    @torch.inference_mode()
    def _encode(self, pixels: UInt8[np.ndarray, "batch size size 3"]) -> list[np.ndarray]:
        with self._transfer.stream():
            rows = self._tower(self._transfer.to_device(pixels))
            return [matrix.cpu().numpy() for matrix in rows]

    def _halve(self, tried: int) -> None:
        if tried <= 1:
            raise OutOfDeviceMemory(
                f"encoder {self.space.encoder}: {self.device} has no memory left for a single"
                " image; end what else uses it (nvidia-smi lists that), or take a smaller encoder"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        with self._lock:
            self._most = min(self._most or tried, tried // 2)
        log.warning(
            "%s is out of memory with %d images at once; going on with %d",
            *(self.device, tried, self._most),
        )

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


def _encoded(matrices: Iterable[np.ndarray]) -> Encoded:
    embedding, *features = matrices
    return Encoded(embedding, features[0] if features else None)


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


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextlib.contextmanager
def _quiet_root_logger():
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
