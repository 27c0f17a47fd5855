"""Small JPEGs of images, as data URIs; an image that cannot be had becomes a reason."""

import base64
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from motif.images.decode import DecodeError, decode
from motif.images.fetch import fetch_all
from motif.images.fetch_errors import FetchError

log = logging.getLogger(__name__)

LONGEST_SIDE = 128
JPEG_QUALITY = 80
# Fetched at a time: originals may be large, and only their thumbnails are kept.
CHUNK = 16


@dataclass(frozen=True)
class Thumbnail:
    """One image, or why there is none."""

    data_uri: str
    """Empty where there is none."""
    missing: str
    """Why there is none, such as `not_found`; else empty."""


def make_thumbnails(images: Iterable[tuple[str, str]]) -> dict[str, Thumbnail]:
    """Fetch, decode and shrink each image once.

    Args:
        images: Pairs of a URI and the content hash that was encoded.

    Returns:
        URI -> thumbnail; nothing is raised for an image that cannot be read, or is another now.
    """
    wanted = list(dict(images).items())
    made: dict[str, Thumbnail] = {}
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]
        for (uri, content_hash), data in zip(
            chunk, fetch_all([uri for uri, _ in chunk]), strict=True
        ):
            made[uri] = _thumbnail(data, content_hash)
    missing = sum(bool(thumbnail.missing) for thumbnail in made.values())
    if missing:
        log.warning("%d of %d images for the report cannot be shown", missing, len(made))
    return made


def _thumbnail(data: bytes | FetchError, content_hash: str) -> Thumbnail:
    if isinstance(data, FetchError):
        return Thumbnail("", data.error_class)
    try:
        decoded = decode(data)
    except DecodeError as error:
        return Thumbnail("", error.error_class)
    if decoded.content_hash != content_hash:
        return Thumbnail("", "changed since it was encoded")
    image = decoded.image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", "")
