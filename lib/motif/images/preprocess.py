"""From a decoded image to the encoder's uint8 input: open_clip's own evaluation transform.

Written in Pillow, so that the processes that decode need not load torch; a test holds it equal,
pixel for pixel, to `open_clip.image_transform_v2` up to its conversion to a tensor.
Normalisation happens on the device, where the encoder is.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from motif.space import Preprocess

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

# Of the long side to the short one. A longer image loses its ends before it is resized: 1 x 60,000
# pixels, a few bytes as a file, would become 224 x 13,440,000.
MAX_ASPECT_RATIO = 64


def to_pixels(image: Image.Image, preprocess: Preprocess) -> UInt8[np.ndarray, "size size 3"]:
    """Resize and crop an RGB image to the encoder's square.

    Args:
        image: Mode RGB, upright.
        preprocess: The encoder's; `resize_mode` is `shortest` (then centre crop), `longest`
            (then pad with `fill_color`) or `squash`.
    """
    size = preprocess.size
    resampling = _RESAMPLING[preprocess.interpolation]
    if preprocess.resize_mode == "squash":
        return np.asarray(image.resize((size, size), resampling))
    width, height = image.size
    if preprocess.resize_mode == "longest":
        ratio = max(width, height) / size
        # open_clip raises where a side rounds to nothing.
        scaled = max(round(width / ratio), 1), max(round(height / ratio), 1)
        resized = image.resize(scaled, resampling)
        canvas = Image.new("RGB", (size, size), (preprocess.fill_color,) * 3)
        canvas.paste(resized, ((size - resized.width) // 2, (size - resized.height) // 2))
        return np.asarray(canvas)
    # torchvision's integer arithmetic: the long side is cut, not rounded; the offset is rounded.
    short = min(width, height)
    if max(width, height) > MAX_ASPECT_RATIO * short:
        half = MAX_ASPECT_RATIO * short // 2
        left, top = max(width // 2 - half, 0), max(height // 2 - half, 0)
        image = image.crop((left, top, min(left + 2 * half, width), min(top + 2 * half, height)))
        width, height = image.size
    scaled = int(size * width / short), int(size * height / short)
    resized = image if image.size == scaled else image.resize(scaled, resampling)
    left, top = round((resized.width - size) / 2.0), round((resized.height - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
