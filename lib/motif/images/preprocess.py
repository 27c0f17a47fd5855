"""From a decoded image to the encoder's uint8 input: open_clip's own evaluation transform.

Resized by torch's vectorised filter, which is Pillow's to the last bit but rounding (tests: at
most one grey level apart, on few pixels) and takes about an eighth of its time. That is why the
processes that decode load torch. Normalisation happens on the device, where the encoder is.
"""

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from motif.space import Preprocess

# Of the long side to the short one. A longer image loses its ends before it is resized: 1 x 60,000
# pixels, a few bytes as a file, would become 224 x 13,440,000.
MAX_ASPECT_RATIO = 64

# A DCT-scaled JPEG keeps at least this many times the encoder's side.
SCALED_DECODE_MARGIN = 12


def wanted_side(preprocess: Preprocess) -> int:
    """Return how short a JPEG's shorter side may be decoded: `shortest_side` of `decode`.

    Cutting each 8 x 8 block's DCT folds lines finer than what is left into coarser ones. With the
    resize below it saves a fifth to a quarter of a stage that mostly reads Huffman codes. On
    pictures of 1080 px and more with fine texture (`benchmarks/decode.py`) the cosine to the full
    decode falls to .95 at twice the encoder's side (film grain: .998) and .91 at three times; at
    six times it is .998 or, on another draw of one-pixel hatching, .980; at twelve times .999.
    So only very large pictures are scaled, where it saves memory above all.

    Right for each `resize_mode`: the shorter side is the one that is enlarged most or cropped.
    """
    return SCALED_DECODE_MARGIN * preprocess.size


def to_pixels(image: Image.Image, preprocess: Preprocess) -> UInt8[np.ndarray, "size size 3"]:
    """Resize and crop an RGB image to the encoder's square.

    Args:
        image: Mode RGB, upright.
        preprocess: The encoder's; `interpolation` is `bicubic` or `bilinear`; `resize_mode` is
            `shortest` (then centre crop), `longest` (then pad with `fill_color`) or `squash`.
    """
    size = preprocess.size
    if preprocess.resize_mode == "squash":
        return _resize(image, size, size, preprocess.interpolation)
    width, height = image.size
    if preprocess.resize_mode == "longest":
        ratio = max(width, height) / size
        # open_clip raises where a side rounds to nothing.
        wide, high = max(round(width / ratio), 1), max(round(height / ratio), 1)
        canvas = np.full((size, size, 3), preprocess.fill_color, np.uint8)
        left, top = (size - wide) // 2, (size - high) // 2
        resized = _resize(image, wide, high, preprocess.interpolation)
        canvas[top : top + high, left : left + wide] = resized
        return canvas
    # torchvision's integer arithmetic: the long side is cut, not rounded; the offset is rounded.
    short = min(width, height)
    if max(width, height) > MAX_ASPECT_RATIO * short:
        half = MAX_ASPECT_RATIO * short // 2
        left, top = max(width // 2 - half, 0), max(height // 2 - half, 0)
        image = image.crop((left, top, min(left + 2 * half, width), min(top + 2 * half, height)))
        width, height = image.size
    wide, high = int(size * width / short), int(size * height / short)
    left, top = round((wide - size) / 2.0), round((high - size) / 2.0)
    resized = _resize(image, wide, high, preprocess.interpolation)
    return resized[top : top + size, left : left + size]


def _resize(
    image: Image.Image, width: int, height: int, interpolation: str
) -> UInt8[np.ndarray, "height width 3"]:
    planes = _pixels_of(image).permute(2, 0, 1)[None]  # (1, channel, row, column)
    if image.size != (width, height):
        planes = functional.interpolate(
            planes, size=(height, width), mode=interpolation, antialias=True
        )
    return np.ascontiguousarray(planes[0, :3].permute(1, 2, 0).numpy())


def _pixels_of(image: Image.Image) -> UInt8[Tensor, "height width channels"]:
    """Return an RGB image's pixels, with a fourth, unused byte where they are Pillow's own."""
    image.load()
    try:
        # A copy would take as long as the resize.
        flat = torch.from_dlpack(pa.array(image).values)
    except ValueError:  # Pillow keeps images of more than 16 MB in several blocks
        return torch.from_numpy(np.array(image))
    return flat.reshape(image.height, image.width, 4)
