"""The finish of a rasterised scene: focus, tone, light, texture and grain.

The mean luma and the colourfulness of every image are moved into the band that its theme stands
for, with a gap between bands, so that the adjectives of the manifest hold by construction.
"""

import functools

import numpy as np
from jaxtyping import Float32, Int16
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from motif.demo_creators.colours import darker
from motif.demo_creators.themes import Light, Theme, Tone

_LUMA: dict[Light, tuple[float, float]] = {
    "even": (0.42, 0.69),
    "golden": (0.44, 0.69),
    "vignette": (0.4, 0.66),
    "dark": (0.12, 0.26),
    "bright": (0.8, 0.9),
}
_COLOURFULNESS: dict[Tone, tuple[float, float]] = {
    "vivid": (78, 130),
    "natural": (0, 48),
    "muted": (0, 24),
}
_SEPIA_DARK, _SEPIA_LIGHT = (52, 34, 24), (250, 234, 200)
_BLUR = 0.016
"""Standard deviation of the blur as a share of the longer side."""
_GRAIN = 22.0
"""Standard deviation of the grain, in grey levels of 255."""


def colourfulness(pixels: Float32[np.ndarray, "... 3"]) -> float:
    """Hasler and Süsstrunk's M3 (2003): 0 for grey, about 100 for extremely colourful.

    Args:
        pixels: RGB in [0, 255].
    """
    red, green, blue = (pixels[..., channel] for channel in range(3))
    across, along = red - green, (red + green) / 2 - blue
    spread = np.hypot(across.std(), along.std())
    return float(spread + 0.3 * np.hypot(across.mean(), along.mean()))


def luma(pixels: Float32[np.ndarray, "... 3"]) -> float:
    """Mean Rec. 601 luma of RGB in [0, 255], as a number in [0, 1]."""
    return float((pixels @ np.array([0.299, 0.587, 0.114], np.float32)).mean()) / 255


def finish(
    image: Image.Image, size: tuple[int, int], theme: Theme, rng: np.random.Generator
) -> Image.Image:
    """Turn a rasterised scene into a creator's image.

    Args:
        image: RGB scene; it may be smaller than `size` when the theme is blurry.
        size: Width and height of the result, in pixels.
        theme: The creator's theme.
        rng: Varies the light and the grain.

    Returns:
        RGB image of `size`.
    """
    image = _focus(image, size, theme)
    image = _lit(image, theme, rng)
    if theme.tone in ("mono", "sepia"):
        image = _contrasted(image, theme)
    image = _within_luma(image, _LUMA[theme.light])
    if theme.tone == "sepia":
        image = _sepia(image)
    elif theme.tone != "mono":
        image = _within_colourfulness(image, _COLOURFULNESS[theme.tone])
    relief = _relief(size, theme, rng)
    if relief is None:
        return image
    pixels: Int16[np.ndarray, "height width 3"] = np.asarray(image).astype(np.int16)
    pixels += relief[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _focus(image: Image.Image, size: tuple[int, int], theme: Theme) -> Image.Image:
    if theme.focus == "sharp":
        return image
    soft = image.filter(ImageFilter.GaussianBlur(_BLUR * max(image.size)))
    if theme.focus == "blurry":
        return soft.resize(size, Image.Resampling.BICUBIC)
    return Image.blend(image, ImageChops.screen(image, soft), 0.45)


def _thumbnail(image: Image.Image) -> Float32[np.ndarray, "64 64 3"]:
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)


def _within_luma(image: Image.Image, band: tuple[float, float]) -> Image.Image:
    """Change the gamma until the mean luma lies in `band`."""
    small = _thumbnail(image) / 255
    now = luma(small * 255)
    if band[0] <= now <= band[1]:
        return image
    target = band[0] if now < band[0] else band[1]
    low, gamma, high = 0.1, 1.0, 8.0
    for _ in range(20):
        gamma = (low * high) ** 0.5
        low, high = (gamma, high) if luma(small**gamma * 255) > target else (low, gamma)
    table = np.round((np.arange(256) / 255) ** gamma * 255).astype(int).tolist()
    return image.point(table * 3)


def _within_colourfulness(image: Image.Image, band: tuple[float, float]) -> Image.Image:
    """Scale the colours about grey until their colourfulness lies in `band`."""
    # Clipping makes the first answer fall short for vivid themes; the second corrects it.
    for _ in range(3):
        now = max(colourfulness(_thumbnail(image)), 1.0)
        wanted = min(max(now, band[0]), band[1])
        if abs(wanted - now) < 1:
            break
        image = ImageEnhance.Color(image).enhance(wanted / now)
    return image


def _contrasted(image: Image.Image, theme: Theme) -> Image.Image:
    """Grey without colour needs the contrast that the hues gave."""
    if theme.tone == "sepia":
        return ImageOps.autocontrast(image, cutoff=0.5, preserve_tone=True)
    grey = image.convert("L")
    if theme.light in ("even", "vignette"):
        # Pure black and white would leave no room for the grain.
        grey = ImageOps.autocontrast(grey, cutoff=0.5).point(lambda level: 16 + level * 0.875)
    return grey.convert("RGB")


@functools.cache
def _radial() -> Image.Image:
    """Grey disc: 255 in the middle, 0 at the corners, over a square."""
    axis = np.linspace(-1, 1, 128)
    far = np.hypot(axis[:, None], axis[None, :]) / np.sqrt(2)
    return Image.fromarray(np.round(255 * (1 - far)).astype(np.uint8))


def _veil(
    image: Image.Image, colour: str, centre: tuple[float, float], ramp: tuple[float, float, float]
) -> Image.Image:
    """Cover `image` with `colour`, by shares at the centre, half-way and at the corners."""
    disc = _radial()
    if centre != (0.5, 0.5):
        moved = disc.resize((256, 256))
        left, top = round(128 * (1 - centre[0])), round(128 * (1 - centre[1]))
        disc = moved.crop((left, top, left + 128, top + 128))
    shares = np.interp(np.arange(256), (0, 127, 255), ramp[::-1])
    mask = disc.point(np.round(shares * 255).astype(int).tolist())
    mask = mask.resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", image.size, colour), image, mask)


def _lit(image: Image.Image, theme: Theme, rng: np.random.Generator) -> Image.Image:
    """Lay the theme's light over the scene."""
    ink = darker(theme.palette.ink, 0.4)
    match theme.light:
        case "golden":
            corner = (float(rng.choice([0.15, 0.85])), 0.1)
            image = ImageChops.multiply(image, Image.new("RGB", image.size, "#fff0d2"))
            return _veil(image, "#ffcf70", corner, (0.6, 0.16, 0.0))
        case "bright":
            return _veil(image, "#ffffff", (0.5, 0.1), (0.4, 0.1, 0.0))
        case "vignette":
            return _veil(image, ink, (0.5, 0.5), (0.0, 0.04, 0.8))
        case "dark":
            return _veil(image, ink, (0.5, 0.5), (0.0, 0.16, 0.82))
        case "even":
            return image


def _sepia(image: Image.Image) -> Image.Image:
    """Map grey to brown and cream, and keep a hint of the colours as an old print does."""
    ramp = np.linspace(_SEPIA_DARK, _SEPIA_LIGHT, 256).T.round().astype(int).ravel().tolist()
    return Image.blend(image.convert("L").convert("RGB").point(ramp), image, 0.16)


@functools.cache
def _noise() -> Image.Image:
    """Grey noise of mean 128 and standard deviation 40, the same in every process."""
    field = np.random.default_rng(2003).normal(128, 40, (1400, 1400))
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))


def _noise_plane(
    size: tuple[int, int], coarseness: float, rng: np.random.Generator
) -> Float32[np.ndarray, "height width"]:
    """Noise of about unit standard deviation whose spots are `coarseness` pixels wide."""
    width, height = (max(2, round(side / max(coarseness, 1))) for side in size)
    left, top = rng.integers(0, 1400 - width), rng.integers(0, 1400 - height)
    crop = _noise().crop((int(left), int(top), int(left) + width, int(top) + height))
    plane = np.asarray(crop.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return (plane - 128) / 40


def _relief(
    size: tuple[int, int], theme: Theme, rng: np.random.Generator
) -> Int16[np.ndarray, "height width"] | None:
    """What grain and texture add to every channel, in grey levels."""
    longer = max(size)
    if theme.grain:
        plane = _GRAIN * _noise_plane(size, longer / 480, rng)
    elif theme.texture == "paper":
        plane = 2.6 * _noise_plane(size, longer / 60, rng) + 1.0 * _noise_plane(size, 1, rng)
    elif theme.texture == "canvas":
        x, y = (np.sin(np.arange(side, dtype=np.float32) * (2 * np.pi * 84 / longer))
                for side in size)  # fmt: skip
        plane = 3.2 * (y[:, None] + x[None, :]) + 1.2 * _noise_plane(size, longer / 250, rng)
    elif theme.texture == "halftone":
        x, y = (np.cos(np.arange(side, dtype=np.float32) * (2 * np.pi * 62 / longer))
                for side in size)  # fmt: skip
        plane = 7.5 * (y[:, None] * x[None, :])
    else:
        return None
    return np.round(plane).astype(np.int16)
