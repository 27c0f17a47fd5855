"""From the bytes of an image file to upright RGB, or a class of failure.

Decided, per kind of file:
  embedded colour profiles are not applied, and CMYK and Lab become RGB by Pillow's conversion:
  the encoders learned from pictures that open_clip's own transform read so, and a profile that
  half of all tools drop on the way must not move a repost's embedding;
  16-bit grey is scaled to 8 bits; palettes are expanded; transparency is laid on white;
  EXIF orientation is applied; of an animation the first frame is taken.

`benchmarks/decode.py` measures the speed, the embeddings and the hashes; RESULTS.md keeps them.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"})
# Larger ones are refused from the header, before a pixel is decoded: 120 Mpx is 360 MB of RGB.
MAX_PIXELS = 120_000_000
STRIP_ROWS = 256
# Box-averaged to about this shorter side before the pHash, which reads 32 x 32 pixels.
HASH_SIDE = 128

# Pillow's own check only warns up to twice its limit; ours is made before it, and decides alone.
Image.MAX_IMAGE_PIXELS = None


class DecodeError(Exception):
    """An image that cannot be used.

    Attributes:
        error_class: `truncated`, `not_an_image`, `bomb` or `unsupported`.
    """

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(error_class, message)
        self.error_class = error_class
        self.message = message


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image and what identifies its content."""

    image: Image.Image
    content_hash: str
    """First 32 hexadecimal digits of the file's SHA-256."""
    perceptual_hash: str
    """ImageHash's 64-bit pHash, 16 hexadecimal digits: nearly equal pictures differ in few bits.

    Computed from the upright picture on white, all of it, reduced by whole factors to a shorter
    side of 128 to 255 pixels; a smaller picture is taken as it is.
    """


def decode(data: bytes, *, shortest_side: int | None = None) -> DecodedImage:
    """Decode a file's bytes.

    Args:
        data: The whole file.
        shortest_side: Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size (by a smaller inverse
            DCT), the smallest of them that leaves both sides at least this long. None, and any
            other format, for the full size. See `preprocess.wanted_side`.

    Raises:
        DecodeError: With the class of the failure; nothing else leaves.
        ValueError: `shortest_side` is not positive.
    """
    if shortest_side is not None and shortest_side < 1:
        raise ValueError(f"shortest_side must be positive, got {shortest_side}")
    if not data:
        raise DecodeError("truncated", "the file is empty")
    try:
        # Pillow warns of odd EXIF, palettes and the like; the picture is what matters here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _upright_rgb(data, shortest_side)
            perceptual = _perceptual_hash(image)
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError("not_an_image", "not a format that Pillow knows") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise DecodeError("truncated", f"damaged or cut off: {error}") from error
    except Exception as error:  # a third party's file must cost its row, never the run
        raise DecodeError("unsupported", f"{type(error).__name__}: {error}") from error
    return DecodedImage(image, hashlib.sha256(data).hexdigest()[:32], perceptual)


def _perceptual_hash(image: Image.Image) -> str:
    factor = max(min(image.size) // HASH_SIDE, 1)
    return str(imagehash.phash(image.reduce(factor) if factor > 1 else image))


def _upright_rgb(data: bytes, shortest_side: int | None) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        if opened.format not in FORMATS:
            raise DecodeError("unsupported", f"format {opened.format} is not accepted")
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise DecodeError("bomb", f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
        if shortest_side is not None:
            opened.draft(None, (shortest_side, shortest_side))  # formats other than JPEG ignore it
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)  # or it copies the upright ones
        return _to_rgb(opened)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    # Pillow returns RGB files as they are; a copy would cost a full pass.
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    # By strips: a copy of the largest image in float64 would take a gigabyte.
    strips = [values[row : row + STRIP_ROWS] for row in range(0, len(values), STRIP_ROWS)]
    largest = max(float(_finite(strip).max(initial=0)) for strip in strips)
    if image.mode == "F":
        top = 1.0 if largest <= 1.0 else 255.0
    else:
        # Mode "I" is what 16-bit PNGs and TIFFs open as in some Pillow versions.
        top = 65535.0 if image.mode.startswith("I;16") or largest > 255 else 255.0
    grey = np.empty(values.shape, np.uint8)
    for index, strip in enumerate(strips):
        scaled = np.clip(_finite(strip) * (255.0 / top), 0, 255).round()
        grey[index * STRIP_ROWS : index * STRIP_ROWS + len(strip)] = scaled
    return Image.fromarray(grey).convert("RGB")


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
