"""Texts and images of a query as vectors of a table's spaces: the part of queries that needs torch.

`motif.table` imports it by name when a query needs it, so that all others start without torch.
"""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, ImageOps

from motif import storage
from motif.artefacts.checkpoint import Checkpoint
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError, SpaceError
from motif.images.decode import DecodeError, decode
from motif.images.fetch import fetch
from motif.images.fetch_errors import FetchError
from motif.images.preprocess import to_pixels, wanted_side
from motif.model import as_inputs, embed
from motif.space import Preprocess, Space


class QueryEncoder:
    """The encoder and the SAME model that a table was made with, each loaded when it is needed."""

    def __init__(self, space: dict[str, Any], *, encoder: str, model: str) -> None:
        """Load nothing yet.

        Args:
            space: The table's.
            encoder: As `--encoder` of the jobs.
            model: URI of the SAME checkpoint.
        """
        self._space = space
        self._encoder_name = encoder
        self._model_uri = model

    @functools.cached_property
    def _encoder(self) -> Encoder:
        if not self._encoder_name:
            raise InputError(
                "the table does not say which encoder it was made with: pass --encoder"
            )
        # In float32, which costs a single query nothing.
        loaded = Encoder(resolve(self._encoder_name), precision=torch.float32, features=True)
        expected = self._space["encoder"]
        if loaded.space.fingerprint != expected["fingerprint"]:
            raise SpaceError(
                f"--encoder {self._encoder_name} is in space {loaded.space.fingerprint}"
                f" ({loaded.space.encoder}), but the table is in {expected['fingerprint']}"
                f" ({expected['encoder']}): pass the encoder that its EMBEDDINGS were made with"
            )
        return loaded

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        if not self._model_uri:
            raise InputError("the table does not say which model it was made with: pass --model")
        opened = Checkpoint.open(self._model_uri)
        if opened.fingerprint != self._space["fingerprint"]:
            raise SpaceError(
                f"--model {opened.uri} maps into space {opened.fingerprint}, but the table is in"
                f" {self._space['fingerprint']}: pass the checkpoint that it was published with"
            )
        return opened

    def encode_texts(self, texts: list[str]) -> Float32[np.ndarray, "texts dim"]:
        """Return unit rows in the space of `mean_embedding`.

        Raises:
            InputError: The encoder cannot be loaded.
            SpaceError: It is another one than the table's.
        """
        return self._encoder.encode_texts(texts)

    def encode_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "images same"]:
        """Return unit rows in the space of `same`.

        Args:
            images: Files or s3:// URIs (text or `Path`), files' bytes, or pictures of Pillow's.

        Raises:
            InputError: An image cannot be read, or the encoder or the model not be loaded.
            SpaceError: One of these is another one than the table's.
        """
        # What is quickly found wrong comes first: the images, the model, the encoder.
        preprocess = Space.from_json(self._space["encoder"]).preprocess
        pixels = np.stack([_pixels_of(image, preprocess) for image in images])
        checkpoint = self._checkpoint
        encoded = self._encoder.encode_images(pixels)
        rows = torch.from_numpy(getattr(encoded, checkpoint.config.input_column))
        return embed(checkpoint.model, as_inputs(rows)).numpy()


def _pixels_of(image: Any, preprocess: Preprocess) -> np.ndarray:
    """Return the encoder's input, by the same way as the images of EMBEDDINGS."""
    told = str(image) if isinstance(image, (str, Path)) else "that was passed"
    try:
        data = _bytes_of(image)
        decoded = decode(data, shortest_side=wanted_side(preprocess))
    except (FetchError, DecodeError) as error:
        raise InputError(f"image {told}: {error.error_class}: {error.message}") from error
    return to_pixels(decoded.image, preprocess)


def _bytes_of(image: Any) -> bytes:
    if isinstance(image, (str, Path)):
        return fetch(storage.absolute(str(image)))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if not isinstance(image, Image.Image):
        raise InputError(
            f"an image is a file, an s3:// URI, bytes or a picture of Pillow's, not"
            f" {type(image).__name__}"
        )
    # Through a file without loss, so that transparency and depths are treated as everywhere.
    file = io.BytesIO()
    try:
        ImageOps.exif_transpose(image).save(file, "TIFF")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"image that was passed: {error}") from error
    return file.getvalue()
