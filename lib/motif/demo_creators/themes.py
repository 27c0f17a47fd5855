"""Creators' themes: what all images of one creator have in common, and the adjectives that follow.

A creator takes one of `_RECIPES` by its position, so that every adjective holds for a known share
of the creators, and draws the rest (palette, line, backdrop, ...) from the seed.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from motif.demo_creators.colours import PALETTES, Palette
from motif.demo_creators.pen import LINES, Line

Tone = Literal["vivid", "natural", "muted", "mono", "sepia"]
Light = Literal["even", "bright", "dark", "golden", "vignette"]
Focus = Literal["sharp", "glow", "blurry"]
Layout = Literal["centred", "thirds", "spacious", "close-up", "tiled", "family"]
Texture = Literal["none", "paper", "canvas", "halftone"]
Backdrop = Literal[
    "plain", "gradient", "table", "hills", "bokeh", "dots", "stripes", "checks", "sunburst",
    "waves", "terrazzo", "disc", "arch", "stars", "blobs", "sprigs",
]  # fmt: skip

ADJECTIVES = (
    "is_colorful",
    "is_dark",
    "is_bright",
    "is_black-and-white",
    "is_blurry",
    "is_minimalist",
    "is_vintage",
    "is_grainy",
)
"""The manifest's truth columns."""

_CALM: tuple[Backdrop, ...] = ("plain", "gradient", "table")
_RICH: tuple[Backdrop, ...] = (
    "hills", "bokeh", "dots", "stripes", "checks", "sunburst", "waves", "terrazzo", "disc", "arch",
    "stars", "blobs", "sprigs",
)  # fmt: skip


@dataclass(frozen=True)
class _Recipe:
    tone: Tone
    light: Light
    focus: Focus
    grain: bool
    layout: Layout


_RECIPES = (
    _Recipe("vivid", "even", "sharp", False, "centred"),
    _Recipe("natural", "dark", "sharp", False, "centred"),
    _Recipe("mono", "bright", "sharp", False, "spacious"),
    _Recipe("natural", "bright", "blurry", False, "thirds"),
    _Recipe("sepia", "vignette", "sharp", True, "centred"),
    _Recipe("natural", "golden", "glow", False, "thirds"),
    _Recipe("mono", "dark", "sharp", False, "close-up"),
    _Recipe("vivid", "even", "sharp", False, "tiled"),
    _Recipe("natural", "dark", "sharp", True, "thirds"),
    _Recipe("natural", "bright", "sharp", False, "spacious"),
    _Recipe("muted", "even", "sharp", True, "spacious"),
    _Recipe("sepia", "even", "sharp", False, "thirds"),
    _Recipe("mono", "even", "sharp", True, "centred"),
    _Recipe("vivid", "even", "blurry", False, "close-up"),
    _Recipe("muted", "even", "sharp", False, "tiled"),
    _Recipe("natural", "bright", "sharp", False, "centred"),
    _Recipe("natural", "dark", "sharp", False, "spacious"),
    _Recipe("mono", "vignette", "sharp", False, "family"),
    _Recipe("natural", "even", "sharp", False, "close-up"),
    _Recipe("sepia", "golden", "sharp", True, "close-up"),
    _Recipe("vivid", "even", "sharp", False, "family"),
    _Recipe("natural", "even", "blurry", False, "spacious"),
    _Recipe("muted", "dark", "blurry", False, "centred"),
    _Recipe("natural", "vignette", "glow", False, "family"),
)


@dataclass(frozen=True, kw_only=True)
class Theme:
    """What the images of one creator have in common."""

    palette: Palette
    tone: Tone
    light: Light
    focus: Focus
    grain: bool
    layout: Layout
    line: Line
    backdrops: tuple[Backdrop, Backdrop]
    """The usual backdrop, and one that is used now and then."""
    texture: Texture
    framed: bool
    grounds: tuple[str, str]
    """The two hues of the palette that lie behind the objects."""
    shape: float
    """Usual width / height, in [0.66, 1.5]."""

    def adjectives(self) -> dict[str, bool]:
        """Whether each of `ADJECTIVES` holds for every image of this theme."""
        return {
            "is_colorful": self.tone == "vivid",
            "is_dark": self.light == "dark",
            "is_bright": self.light == "bright",
            "is_black-and-white": self.tone == "mono",
            "is_blurry": self.focus == "blurry",
            "is_minimalist": self.layout == "spacious",
            "is_vintage": self.tone == "sepia",
            "is_grainy": self.grain,
        }


def theme_of(creator: int, seed: int) -> Theme:
    """Theme of the creator at position `creator` >= 0.

    Creators that share a recipe differ in palette, line and backdrop, until one of these lists
    is exhausted.
    """
    turn, position = divmod(creator, len(_RECIPES))
    recipe = _RECIPES[position]
    shared = np.random.default_rng([seed, 1, position])
    palettes = shared.permutation(len(PALETTES))
    # Blur takes away what line drawings consist of.
    bold = [line for line in LINES if line not in ("sketchy", "lineart")]
    lines = shared.permutation(bold if recipe.focus == "blurry" else LINES)
    rich = shared.permutation(len(_RICH))
    own = np.random.default_rng([seed, 2, creator])
    palette = PALETTES[palettes[turn % len(PALETTES)]]
    first, second = own.permutation(len(palette.hues))[:2]
    if recipe.layout == "spacious":
        backdrops = (_CALM[turn % len(_CALM)],) * 2
    else:
        backdrops = tuple(_RICH[rich[(2 * turn + nth) % len(_RICH)]] for nth in (0, 1))
    return Theme(
        palette=palette,
        tone=recipe.tone,
        light=recipe.light,
        focus=recipe.focus,
        grain=recipe.grain,
        layout=recipe.layout,
        line=lines[turn % len(lines)],
        backdrops=(backdrops[0], backdrops[1]),
        texture=_texture(recipe, own),
        framed=bool(own.random() < (0.7 if recipe.tone == "sepia" else 0.2)),
        grounds=(palette.hues[first], palette.hues[second]),
        shape=float(own.choice([0.75, 0.8, 1.0, 1.0, 1.25, 1.34])),
    )


def _texture(recipe: _Recipe, rng: np.random.Generator) -> Texture:
    """A texture is visible only where neither blur nor grain hides it."""
    if recipe.focus != "sharp" or recipe.grain:
        return "none"
    textures: tuple[Texture, ...] = ("none", "none", "paper", "canvas", "halftone")
    if recipe.layout == "spacious":
        textures = ("none", "paper")
    return textures[rng.integers(len(textures))]
