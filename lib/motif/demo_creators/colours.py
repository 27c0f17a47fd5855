"""Colours as `#rrggbb` text, and the palettes that the demo's creators choose from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours that look well together."""

    name: str
    """Readable name, unique among `PALETTES`."""
    pale: str
    """The lightest colour: paper, whites of eyes, sails."""
    ink: str
    """The darkest colour: outlines, pupils, tyres."""
    hues: tuple[str, ...]
    """Five colours, for objects and for grounds."""


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of `#rrggbb`, each in [0, 255]."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def mix(first: str, second: str, share: float) -> str:
    """Colour between two: `first` at share 0, `second` at share 1."""
    pairs = zip(channels(first), channels(second), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def lighter(colour: str, share: float) -> str:
    """`colour` moved towards white by `share` in [0, 1]."""
    return mix(colour, "#ffffff", share)


def darker(colour: str, share: float) -> str:
    """`colour` moved towards a blue-black by `share` in [0, 1]: pure black looks dirty."""
    return mix(colour, "#0c0a1e", share)


def deeper(colour: str) -> str:
    """`colour` a little darker and more saturated: adding black makes olive of yellow."""
    return "#" + "".join(f"{round(255 * (c / 255) ** 1.14):02x}" for c in channels(colour))


def luminance(colour: str) -> float:
    """Rec. 601 luma in [0, 1], the measure that `finish` and the tests use."""
    red, green, blue = channels(colour)
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def distance(first: str, second: str) -> float:
    """How well two colours are told apart, in [0, 1]; luma counts double, as it does to the eye."""
    chroma = np.subtract(channels(first), channels(second)) / 255
    luma = luminance(first) - luminance(second)
    return float(np.sqrt(np.mean(chroma**2) + 2 * luma**2) / np.sqrt(3))


def standing_out(ground: str, hues: tuple[str, ...]) -> list[str]:
    """`hues` in order of distance from `ground`, the most distant first."""
    return sorted(hues, key=lambda hue: -distance(hue, ground))


def _palette(name: str, pale: str, ink: str, *hues: str) -> Palette:
    return Palette(name=name, pale=pale, ink=ink, hues=hues)


PALETTES = (
    _palette("coral", "#fff4e8", "#2b2d42", "#ef6f6c", "#f7b267", "#2a9d8f", "#3d5a80", "#f4d58d"),
    _palette("forest", "#f3f1e1", "#1f2d26", "#52796f", "#84a98c", "#d9a05b", "#a3473c", "#cad2b5"),
    _palette("candy", "#fff5fa", "#3b2049", "#f582ae", "#8bd3dd", "#fde74c", "#9b5de5", "#f6c6ea"),
    _palette("ocean", "#eef8fb", "#0b2545", "#13628c", "#3fa7d6", "#8ecae6", "#ffb703", "#fb8500"),
    _palette("desert", "#fdf3e3", "#40251c", "#c8553d", "#e9a96c", "#588b8b", "#f2d0a4", "#93443a"),
    _palette("berry", "#fdf0f3", "#2d142c", "#801336", "#c72c41", "#ee9ca7", "#5c7a99", "#f3c98b"),
    _palette("citrus", "#fffbe6", "#233d23", "#f9c22e", "#f15946", "#7cb518", "#2e86ab", "#ffdd80"),
    _palette(
        "lavender", "#f7f3fd", "#2e2850", "#7f6dc0", "#b79ced", "#efc7e5", "#56a3a6", "#f4b886"
    ),
    _palette("nordic", "#f4f6f6", "#26323d", "#44617b", "#8fa9b8", "#d6705c", "#e8c07d", "#c4d3d5"),
    _palette("retro", "#fbf1d8", "#332a22", "#d95d39", "#f0a202", "#0e7c7b", "#86bbac", "#a63a50"),
    _palette(
        "tropical", "#fefae8", "#12343b", "#06a77d", "#f45b69", "#ffc857", "#1789b8", "#a1e5ab"
    ),
    _palette("clay", "#f8efe7", "#38302c", "#b5654a", "#d9a38f", "#7d8471", "#e5cdb5", "#5a6f78"),
    _palette("mint", "#f1fbf6", "#1d3a3a", "#3bb39b", "#94dfc6", "#ff8a70", "#ffd3a3", "#54809a"),
    _palette("plum", "#faf2f7", "#241633", "#5b2a6e", "#b5509c", "#f39189", "#f7cd82", "#5f8fb5"),
    _palette(
        "sunrise", "#fff6ea", "#34213e", "#f9844a", "#f9c74f", "#e5597a", "#7a6fb0", "#ffd9b0"
    ),
    _palette("meadow", "#fafbe8", "#2a3a1c", "#8ab24a", "#f2c14e", "#e4716c", "#5da9c6", "#cfdd9c"),
    _palette("slate", "#f2f3f5", "#22252e", "#59637a", "#98a3b8", "#f26b4e", "#f4c95d", "#c9cfdb"),
    _palette("rose", "#fff3f1", "#43242d", "#d8677d", "#f2a7a0", "#8aa17d", "#f7d6bf", "#7c6a8a"),
    _palette("signal", "#f8f7f0", "#16181d", "#e63946", "#1d5fa8", "#f6c800", "#2f9e5b", "#f4a59a"),
    _palette("lagoon", "#effaf7", "#0a3038", "#128c8c", "#62c3b2", "#f2e394", "#f28a5b", "#b6446b"),
)
