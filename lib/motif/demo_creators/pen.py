"""A pen that draws SVG shapes in a creator's line style."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from motif.demo_creators import colours

Line = Literal["flat", "gradient", "ink", "thick", "sketchy", "lineart"]
LINES: tuple[Line, ...] = ("flat", "gradient", "ink", "thick", "sketchy", "lineart")

_OUTLINE_WIDTH: dict[Line, float] = {
    "flat": 0,
    "gradient": 0,
    "ink": 3.2,
    "thick": 7,
    "sketchy": 2.2,
    "lineart": 3.6,
}


@dataclass(frozen=True, kw_only=True)
class Tints:
    """The colours of one drawing, each `#rrggbb`."""

    main: str
    second: str
    accent: str
    pale: str
    ink: str
    """Details that must stay dark: pupils, tyres."""
    outline: str
    """Outlines: the ink, or chalk on a dark ground."""
    paper: str
    """What line art fills its shapes with, but for a hint of their own colour."""


class Pen:
    """Collects the shapes of one object in a box of [-100, 100] squared, y downwards."""

    def __init__(self, tints: Tints, line: Line, rng: np.random.Generator) -> None:
        """Start an empty drawing; `rng` varies the pose and wobbles sketched lines."""
        self.tints = tints
        self.line: Line = line
        self.rng = rng
        self._parts: list[str] = []
        self._gradients: dict[str, str] = {}

    def svg(self) -> str:
        """Return the drawing: its own gradients, then its shapes in the order drawn."""
        return f"<defs>{''.join(self._gradients.values())}</defs>{''.join(self._parts)}"

    def chance(self, probability: float) -> bool:
        """Whether an event of `probability` happens in this drawing."""
        return bool(self.rng.random() < probability)

    def around(self, low: float, high: float) -> float:
        """Draw a number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def path(self, d: str, fill: str, *, outline: bool = True) -> None:
        """Draw a closed shape; small inner details pass `outline=False`."""
        self._shape(f'path d="{d}"', fill, outline=outline)

    def polygon(self, points: str, fill: str, *, outline: bool = True) -> None:
        """Draw a polygon from `x,y x,y ...`."""
        self._shape(f'polygon points="{points}"', fill, outline=outline)

    def circle(self, x: float, y: float, radius: float, fill: str, *, outline: bool = True) -> None:
        """Draw a disc."""
        self._shape(f'circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"', fill, outline=outline)

    def ellipse(
        self,
        x: float,
        y: float,
        radii: tuple[float, float],
        fill: str,
        *,
        turn: float = 0,
        outline: bool = True,
    ) -> None:
        """Draw an ellipse, turned about its centre by `turn` degrees."""
        place = f'transform="translate({x:.1f} {y:.1f}) rotate({turn:.1f})"'
        shape = f'ellipse rx="{radii[0]:.1f}" ry="{radii[1]:.1f}"'
        self._parts.append(f"<g {place}>")
        self._shape(shape, fill, outline=outline)
        self._parts.append("</g>")

    def rect(
        self,
        x: float,
        y: float,
        size: tuple[float, float],
        fill: str,
        *,
        corner: float = 0,
        outline: bool = True,
    ) -> None:
        """Draw a rectangle from its top left corner, with rounded corners."""
        shape = f'rect x="{x:.1f}" y="{y:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}"'
        self._shape(f'{shape} rx="{corner}"', fill, outline=outline)

    def stroke(self, d: str, colour: str, width: float) -> None:
        """Draw an open line with round ends."""
        self._parts.append(_line(d, colour, width))

    def tube(self, d: str, colour: str, width: float) -> None:
        """Draw a thick open line that has the outline of a shape: a tail, a handle."""
        edge = _OUTLINE_WIDTH[self.line]
        if edge:
            self._parts.append(_line(d, self.tints.outline, width + 2 * edge))
        self._parts.append(_line(d, self._solid(colour), width))

    def shade(self, d: str) -> None:
        """Darken a part of what is drawn so far."""
        self._veil(d, "#0c0a1e", 0.16)

    def gloss(self, d: str) -> None:
        """Lighten a part of what is drawn so far."""
        self._veil(d, "#ffffff", 0.28)

    def _veil(self, d: str, colour: str, opacity: float) -> None:
        if self.line != "lineart":
            self._parts.append(f'<path d="{d}" fill="{colour}" fill-opacity="{opacity}"/>')

    def _solid(self, colour: str) -> str:
        """Line art keeps only a hint of its colours; the darkest details stay."""
        if self.line == "lineart" and colour != self.tints.ink:
            return colours.mix(colour, self.tints.paper, 0.72)
        return colour

    def _paint(self, colour: str) -> str:
        if self.line != "gradient":
            return self._solid(colour)
        name = f"g{colour[1:]}"
        if name not in self._gradients:
            light, dark = colours.lighter(colour, 0.24), colours.darker(colour, 0.2)
            self._gradients[name] = (
                f'<linearGradient id="{name}" x1="0.2" y1="0" x2="0.8" y2="1">'
                f'<stop stop-color="{light}"/><stop offset="1" stop-color="{dark}"/>'
                "</linearGradient>"
            )
        return f"url(#{name})"

    def _shape(self, shape: str, fill: str, *, outline: bool) -> None:
        paint = self._paint(fill)
        width = _OUTLINE_WIDTH[self.line] if outline else 0
        edge = f'stroke="{self.tints.outline}" stroke-width="{width}" stroke-linejoin="round"'
        if self.line == "sketchy" and outline:
            # A misregistered fill and two wobbling outlines read as drawn by hand.
            self._parts.append(f'<{shape} fill="{paint}" transform="{self._wobble(2.2)}"/>')
            self._parts += [
                f'<{shape} fill="none" {edge} transform="{self._wobble(1.4)}"/>' for _ in range(2)
            ]
        else:
            self._parts.append(f'<{shape} fill="{paint}" {edge if width else ""}/>')

    def _wobble(self, reach: float) -> str:
        turn, x, y = self.rng.uniform(-reach, reach, 3)
        return f"rotate({turn:.2f}) translate({x:.2f} {y:.2f})"


def _line(d: str, colour: str, width: float) -> str:
    ends = 'stroke-linecap="round" stroke-linejoin="round"'
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width:.1f}" {ends}/>'
