"""Pictures with fine texture and grain, drawn at their own size, for tests and measurements.

Nothing is upscaled: each has detail down to the single pixel, which a DCT-scaled decode drops.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image

Size = tuple[int, int]
Plane = Float[np.ndarray, "height width"]


def grain(rng: np.random.Generator, size: Size) -> Image.Image:
    """Soft scene under the grain of a fast film."""
    return _coloured(rng, _cloud(rng, size, falloff=1.8), noise=18)


def foliage(rng: np.random.Generator, size: Size, *, falloff: float = 0.9) -> Image.Image:
    """Detail at every scale, its amplitude falling with the frequency as in photographs."""
    return _coloured(rng, _cloud(rng, size, falloff=falloff), noise=4)


def gratings(rng: np.random.Generator, size: Size) -> Image.Image:
    """Patches of parallel lines with periods from 2 to 12 pixels, in all directions."""
    y, x = _grid(size)
    plane = _cloud(rng, size, falloff=1.8)
    for _ in range(40):
        angle, period = rng.uniform(0, np.pi), rng.uniform(2, 12)
        inside = _patch(rng, size)
        along = x[inside] * np.cos(angle) + y[inside] * np.sin(angle)
        plane[inside] = 0.5 + 0.45 * np.sin(2 * np.pi * along / period)
    return _coloured(rng, plane, noise=2)


def hatching(rng: np.random.Generator, size: Size) -> Image.Image:
    """Patches of one-pixel checker and of crossing strokes on paper, as in an engraving."""
    rows, columns = _grid(size)
    plane = 0.6 + 0.3 * _cloud(rng, size, falloff=1.8)
    for index in range(40):
        step, slope = rng.integers(1, 5), rng.integers(1, 4)
        inside = _patch(rng, size)
        y, x = rows[inside], columns[inside]
        if index % 2:
            paper = (x // step + y // step) % 2 == 0
        else:
            paper = ((x + slope * y) % (3 * step) > 0) & ((x - slope * y) % (4 * step) > 0)
        plane[inside] = np.where(paper, 0.9, 0.1)
    return _coloured(rng, plane, noise=3)


TEXTURES: dict[str, Callable[[np.random.Generator, Size], Image.Image]] = {
    "grain": grain,
    "foliage": foliage,
    "gratings": gratings,
    "hatching": hatching,
}


def jpeg(image: Image.Image, *, quality: int = 90) -> bytes:
    """Return a baseline JPEG with 4:2:0 chroma, as most libraries hold."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def _grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    width, height = size
    return np.mgrid[0:height, 0:width]


def _patch(rng: np.random.Generator, size: Size) -> tuple[slice, slice]:
    width, height = size
    left, top = rng.integers(0, width - 50), rng.integers(0, height - 50)
    across, down = rng.integers(50, width // 2), rng.integers(50, height // 2)
    return slice(top, top + down), slice(left, left + across)


def _cloud(rng: np.random.Generator, size: Size, *, falloff: float) -> Plane:
    """Return noise in [0, 1] whose amplitude falls as 1 / frequency ** `falloff`."""
    width, height = size
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1.0
    plane = np.fft.irfft2(spectrum / frequency**falloff, (height, width))
    low, high = np.quantile(plane, [0.01, 0.99])
    return np.clip((plane - low) / (high - low), 0, 1)


def _coloured(rng: np.random.Generator, plane: Plane, *, noise: float) -> Image.Image:
    """Map [0, 1] through three colours and add noise of `noise` grey levels to each channel."""
    stops = rng.uniform(0, 255, (3, 3))
    stops[0] *= 0.3
    stops[2] = 255 - 0.3 * stops[2]
    rgb = np.stack([np.interp(plane, [0, 0.5, 1], stops[:, c]) for c in range(3)], axis=-1)
    rgb += rng.normal(0, noise, plane.shape)[..., None] + rng.normal(0, noise / 3, rgb.shape)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
