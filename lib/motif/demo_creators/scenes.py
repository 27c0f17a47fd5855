"""One image of a creator as SVG: backdrop, shadows, objects and frame."""

import numpy as np

from motif.demo_creators.backdrops import Stage, backdrop
from motif.demo_creators.colours import (
    darker,
    deeper,
    distance,
    lighter,
    luminance,
    mix,
    standing_out,
)
from motif.demo_creators.objects import FLOATING, OBJECTS
from motif.demo_creators.pen import Pen, Tints
from motif.demo_creators.themes import Layout, Light, Theme

_LONG = 1000.0
_GROUND_LUMA: dict[Light, tuple[float, float]] = {
    "even": (0.46, 0.72),
    "golden": (0.5, 0.72),
    "vignette": (0.5, 0.72),
    "dark": (0.1, 0.19),
    "bright": (0.84, 0.9),
}
"""Grounds are already as light as the finished image shall be, so that its gamma stays mild."""
_MANNERS: tuple[Layout, ...] = ("centred", "thirds", "family")


def scene(theme: Theme, name: str, size: tuple[int, int], rng: np.random.Generator) -> str:
    """Draw object `name` in `theme`.

    Args:
        theme: The creator's theme.
        name: A key of `OBJECTS`.
        size: Width and height of the image in pixels.
        rng: Varies the placing, the colours and the pose.

    Returns:
        An SVG document of `size`, whose longer side has 1000 units.
    """
    shape = size[0] / size[1]
    width, height = (_LONG, _LONG / shape) if shape >= 1 else (_LONG * shape, _LONG)
    layout = theme.layout
    if layout in _MANNERS and rng.random() < 0.15:
        layout = _MANNERS[rng.integers(len(_MANNERS))]
    places = _places(layout, width, height, rng)
    ground, others = _grounds(theme, rng)
    stage = Stage(width=width, height=height, ground=ground, others=others, focus=places[0][:2],
                  rng=rng)  # fmt: skip
    usual, rare = theme.backdrops
    parts = [backdrop(rare if rng.random() < 0.2 else usual, stage)]
    looks = [_look(theme, name, ground, rng) for _ in range(min(len(places), 3))]
    defs = "".join(f'<g id="look{nth}">{look}</g>' for nth, look in enumerate(looks))
    parts.append(f"<defs>{defs}</defs>")
    mirrored = -1 if name not in ("clock", "book") and rng.random() < 0.5 else 1
    order = sorted(range(len(places)), key=lambda nth: places[nth][2])
    for nth in order:
        x, y, span = places[nth]
        scale, turn = span / 200, rng.uniform(-7, 7)
        if name not in FLOATING and layout != "tiled":
            parts.append(_shadow(x, y + 92 * scale, span))
        parts.append(
            f'<use xlink:href="#look{nth % len(looks)}" transform="translate({x:.1f} '
            f'{y:.1f}) rotate({turn:.1f}) scale({scale * mirrored:.3f} {scale:.3f})"/>'
        )
    parts.append(_frame(theme, stage))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size[0]}" height="{size[1]}" preserveAspectRatio="none" '
        f'viewBox="0 0 {width:.1f} {height:.1f}">{"".join(parts)}</svg>'
    )


def _places(
    layout: Layout, width: float, height: float, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Centre and size of every copy of the object, the main one first."""
    short = min(width, height)
    if layout == "tiled":
        step = short / rng.choice([2, 2, 3])
        columns, rows = round(width / step), round(height / step)
        return [((column + 0.5) * width / columns, (row + 0.5) * height / rows, step * 0.76)
                for row in range(rows) for column in range(columns)]  # fmt: skip
    if layout == "family":
        size, low = short * 0.56, height * 0.54
        far = max(width * 0.3, short * 0.28)
        smaller = rng.uniform(0.62, 0.78, 2)
        return [(width / 2, low, size)] + [
            (width / 2 + side * far, low + size * (1 - share) * 0.5, size * share)
            for side, share in zip((-1, 1), smaller, strict=True)
        ]
    x, y, size = {
        "centred": (0.5, 0.5, rng.uniform(0.7, 0.82)),
        "thirds": (rng.choice([0.36, 0.64]), rng.uniform(0.52, 0.62), rng.uniform(0.56, 0.66)),
        "spacious": (
            rng.choice([0.34, 0.5, 0.66]),
            rng.uniform(0.5, 0.68),
            rng.uniform(0.34, 0.42),
        ),
        "close-up": (rng.uniform(0.44, 0.56), rng.uniform(0.5, 0.58), rng.uniform(1.08, 1.3)),
    }[layout]
    nudge = rng.uniform(-0.02, 0.02, 2)
    return [(width * (x + nudge[0]), height * (y + nudge[1]), short * size)]


def _grounds(theme: Theme, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """The backdrop's main colour, and companions of the same lightness."""
    palette = theme.palette
    hue = theme.grounds[0 if rng.random() < 0.7 else 1]

    low, high = _GROUND_LUMA[theme.light]
    soft = 0.0 if theme.tone == "vivid" or theme.light == "dark" else 0.3

    def toned(colour: str) -> str:
        colour = mix(colour, palette.pale, soft)
        for _ in range(30):
            if luminance(colour) > high:
                dark = theme.light == "dark"
                colour = mix(colour, palette.ink, 0.1) if dark else deeper(colour)
            elif luminance(colour) < low:
                colour = mix(colour, lighter(palette.pale, 0.5), 0.08)
        return colour

    others = [toned(str(colour)) for colour in rng.permutation(palette.hues) if colour != hue]
    # Companions of one lightness would vanish in black and white.
    step = {"dark": 0.16, "bright": 0.3}.get(theme.light, 0.4)
    apart = [mix(colour, palette.pale if luminance(colour) < 0.6 and nth % 2 else palette.ink,
                 step if luminance(colour) < 0.6 and nth % 2 else step * 0.5)
             for nth, colour in enumerate(others)]  # fmt: skip
    return toned(hue), tuple(apart)


def _look(theme: Theme, name: str, ground: str, rng: np.random.Generator) -> str:
    """The object in colours that stand out from the ground."""
    palette = theme.palette
    apart = standing_out(ground, palette.hues)
    main = apart[rng.integers(3)]
    second, accent = (str(hue) for hue in rng.permutation([h for h in apart if h != main])[:2])
    if distance(main, ground) < 0.2:
        main = lighter(main, 0.4) if theme.light == "dark" else darker(main, 0.45)
    pale, ink, outline, paper = palette.pale, palette.ink, palette.ink, palette.pale
    if theme.light == "dark":
        main, second, accent = (darker(colour, 0.16) for colour in (main, second, accent))
        pale = darker(pale, 0.14)
        outline = pale if theme.line in ("ink", "sketchy") else ink
        if theme.line == "lineart":
            ink, outline, paper = lighter(pale, 0.3), pale, ground
    pen = Pen(
        Tints(main=main, second=second, accent=accent, pale=pale, ink=ink, outline=outline,
              paper=paper),
        theme.line,
        rng,
    )  # fmt: skip
    OBJECTS[name](pen)
    return pen.svg()


def _shadow(x: float, y: float, size: float) -> str:
    return (
        '<defs><radialGradient id="shadow"><stop stop-color="#0c0a1e" stop-opacity="0.4"/>'
        '<stop offset="1" stop-color="#0c0a1e" stop-opacity="0"/></radialGradient></defs>'
        f'<ellipse cx="{x:.0f}" cy="{y:.0f}" rx="{size * 0.5:.0f}" ry="{size * 0.085:.0f}" '
        'fill="url(#shadow)"/>'
    )


def _frame(theme: Theme, stage: Stage) -> str:
    if not theme.framed:
        return ""
    w, h, edge = stage.width, stage.height, stage.short * 0.045
    colour = mix(theme.palette.ink, "#000000", 0.3) if theme.light == "dark" else theme.palette.pale
    return (
        f'<rect x="{edge / 2}" y="{edge / 2}" width="{w - edge}" height="{h - edge}" fill="none" '
        f'stroke="{colour}" stroke-width="{edge}"/>'
    )
