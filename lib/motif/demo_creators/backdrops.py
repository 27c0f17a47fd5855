"""What lies behind the objects, as SVG over a canvas of `width` x `height` units."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from motif.demo_creators.colours import darker, lighter, luminance, mix
from motif.demo_creators.themes import Backdrop


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a backdrop is drawn, and in which colours."""

    width: float
    height: float
    ground: str
    """The colour that most of the backdrop has."""
    others: tuple[str, ...]
    """Colours already toned to the ground's lightness, at least three."""
    focus: tuple[float, float]
    """Centre of the main object."""
    rng: np.random.Generator

    @property
    def near(self) -> str:
        """A second ground, close to the first."""
        return mix(self.ground, self.others[0], 0.3)

    @property
    def short(self) -> float:
        """The shorter side."""
        return min(self.width, self.height)


def backdrop(kind: Backdrop, stage: Stage) -> str:
    """Draw the backdrop `kind`."""
    return _gradient(stage) if kind == "gradient" else _plain(stage) + _DRAW[kind](stage)


def _plain(stage: Stage) -> str:
    return f'<rect width="{stage.width}" height="{stage.height}" fill="{stage.ground}"/>'


def _gradient(stage: Stage, end: str | None = None) -> str:
    end = end or mix(stage.ground, stage.others[0], 0.55)
    return (
        '<defs><linearGradient id="sky" x1="0" y1="0" x2="0.25" y2="1">'
        f'<stop stop-color="{stage.ground}"/><stop offset="1" stop-color="{end}"/>'
        f'</linearGradient></defs><rect width="{stage.width}" height="{stage.height}" '
        'fill="url(#sky)"/>'
    )


def _disc(x: float, y: float, radius: float, fill: str, opacity: float = 1) -> str:
    place = f'cx="{x:.0f}" cy="{y:.0f}" r="{radius:.1f}"'
    return f'<circle {place} fill="{fill}" fill-opacity="{opacity:.2f}"/>'


def _table(stage: Stage) -> str:
    y = stage.focus[1] + stage.short * stage.rng.uniform(0.06, 0.1)
    floor = mix(stage.ground, stage.others[1], 0.45)
    return f'<rect y="{y:.0f}" width="{stage.width}" height="{stage.height}" fill="{floor}"/>'


def _hills(stage: Stage) -> str:
    w, h, rng = stage.width, stage.height, stage.rng
    parts = [_gradient(stage, lighter(stage.ground, 0.35))]
    sun = lighter(stage.others[2], 0.4)
    parts.append(_disc(w * rng.uniform(0.15, 0.85), h * rng.uniform(0.12, 0.3), h * 0.09, sun))
    for _ in range(3):
        x, y, size = w * rng.random(), h * rng.uniform(0.08, 0.32), stage.short * 0.05
        parts += [_disc(x + dx * size, y, size * (1.2 - abs(dx) / 3), "#ffffff", 0.5)
                  for dx in (-1.3, 0, 1.3)]  # fmt: skip
    for layer in range(3):
        y = h * (0.52 + 0.14 * layer)
        lift, dip = rng.uniform(-0.1, 0.1, 2) * h
        colour = darker(mix(stage.ground, stage.others[layer], 0.6), 0.06 * layer)
        parts.append(f'<path d="M0,{y:.0f} C{w * 0.3:.0f},{y - h * 0.08 + lift:.0f} '
                     f'{w * 0.6:.0f},{y + h * 0.1 + dip:.0f} {w},{y - lift / 2:.0f} L{w},{h} '
                     f'L0,{h} Z" fill="{colour}"/>')  # fmt: skip
    return "".join(parts)


def _bokeh(stage: Stage) -> str:
    rng, parts = stage.rng, [_gradient(stage)]
    for _ in range(26):
        colour = lighter(stage.others[rng.integers(len(stage.others))], 0.35)
        x, y = stage.width * rng.random(), stage.height * rng.random()
        radius = stage.short * rng.uniform(0.03, 0.12)
        parts.append(_disc(x, y, radius, colour, rng.uniform(0.16, 0.5)))
    return "".join(parts)


def _dots(stage: Stage) -> str:
    step, parts = stage.short / stage.rng.uniform(6, 8), []
    for row in range(math.ceil(stage.height / step) + 1):
        for column in range(math.ceil(stage.width / step) + 1):
            x = (column + (row % 2) / 2) * step
            parts.append(_disc(x, row * step, step * 0.2, stage.near))
    return "".join(parts)


def _stripes(stage: Stage) -> str:
    step = stage.short / stage.rng.uniform(5, 8)
    lean = stage.height * stage.rng.choice([0.0, 0.45])
    parts = []
    for nth in range(math.ceil((stage.width + lean) / step) + 1):
        if nth % 2 == 0:
            x = nth * step
            parts.append(f'<path d="M{x:.0f},0 h{step:.0f} L{x + step - lean:.0f},{stage.height} '
                         f'h{-step:.0f} Z" fill="{stage.near}"/>')  # fmt: skip
    return "".join(parts)


def _checks(stage: Stage) -> str:
    step, parts = stage.short / stage.rng.uniform(5, 7), []
    for across, length, count in (
        (True, stage.height, math.ceil(stage.width / step)),
        (False, stage.width, math.ceil(stage.height / step)),
    ):
        for nth in range(0, count, 2):
            box = (nth * step, 0, step, length) if across else (0, nth * step, length, step)
            parts.append('<rect x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" '
                         'fill="{}" fill-opacity="0.6"/>'.format(*box, stage.near))  # fmt: skip
    return "".join(parts)


def _sunburst(stage: Stage) -> str:
    (x, y), rays, parts = stage.focus, int(stage.rng.integers(11, 16)), []
    reach, start = 2 * (stage.width + stage.height), stage.rng.random()
    for nth in range(rays):
        a, b = (math.tau * (nth + start + side) / rays for side in (0, 0.5))
        parts.append(f'<path d="M{x:.0f},{y:.0f} L{x + reach * math.cos(a):.0f},'
                     f'{y + reach * math.sin(a):.0f} L{x + reach * math.cos(b):.0f},'
                     f'{y + reach * math.sin(b):.0f} Z" fill="{stage.near}"/>')  # fmt: skip
    return "".join(parts)


def _waves(stage: Stage) -> str:
    step, parts = stage.short / stage.rng.uniform(4, 6), []
    for row in range(math.ceil(stage.height / step * 2) + 2):
        for column in range(math.ceil(stage.width / step) + 2):
            x, y = (column - (row % 2) / 2) * step, row * step / 2
            for size, fill in ((0.5, stage.near), (0.38, stage.ground), (0.24, stage.near)):
                parts.append(_disc(x, y, step * size, fill))
    return "".join(parts)


def _terrazzo(stage: Stage) -> str:
    rng, parts = stage.rng, []
    for _ in range(46):
        x, y = stage.width * rng.random(), stage.height * rng.random()
        corners = []
        for turn in np.sort(rng.uniform(0, math.tau, 6)):
            reach = stage.short * rng.uniform(0.02, 0.05)
            corners.append(f"{x + reach * math.cos(turn):.0f},{y + reach * math.sin(turn):.0f}")
        fill = mix(stage.ground, stage.others[rng.integers(len(stage.others))], 0.75)
        parts.append(f'<polygon points="{" ".join(corners)}" fill="{fill}"/>')
    return "".join(parts)


def _spot(stage: Stage) -> str:
    x, y = stage.focus
    size = stage.short * stage.rng.uniform(0.4, 0.45)
    parts = [_disc(x, y, size, mix(stage.ground, stage.others[1], 0.55))]
    for _ in range(9):
        turn, far = stage.rng.uniform(0, math.tau), size * stage.rng.uniform(1.12, 1.5)
        dot = stage.short * stage.rng.uniform(0.008, 0.02)
        parts.append(
            _disc(x + far * math.cos(turn), y + far * math.sin(turn), dot, stage.others[2])
        )
    return "".join(parts)


def _arch(stage: Stage) -> str:
    x, half = stage.focus[0], stage.short * 0.42
    top = stage.focus[1] - stage.short * 0.12
    parts = []
    for grow, share in ((1.14, 0.35), (1.0, 0.6)):
        fill = mix(stage.ground, stage.others[1], share)
        parts.append(f'<path d="M{x - half * grow:.0f},{stage.height} V{top:.0f} '
                     f'a{half * grow:.0f},{half * grow:.0f} 0 0 1 {2 * half * grow:.0f},0 '
                     f'V{stage.height} Z" fill="{fill}"/>')  # fmt: skip
    return "".join(parts)


def _stars(stage: Stage) -> str:
    rng, parts = stage.rng, [_gradient(stage)]
    star = lighter(stage.others[1], 0.7) if luminance(stage.ground) < 0.6 else stage.others[1]
    for _ in range(60):
        x, y = stage.width * rng.random(), stage.height * rng.random()
        r = stage.short * rng.choice([0.004, 0.006, 0.016])
        if r < 0.01 * stage.short:
            parts.append(_disc(x, y, r, star, rng.uniform(0.5, 1)))
        else:
            long, near = r * 0.8, r * 0.2
            parts.append(f'<path d="M{x:.0f},{y - r:.1f} q{near:.1f},{long:.1f} {r:.1f},{r:.1f} '
                         f'q{-long:.1f},{near:.1f} {-r:.1f},{r:.1f} q{-near:.1f},{-long:.1f} '
                         f'{-r:.1f},{-r:.1f} q{long:.1f},{-near:.1f} {r:.1f},{-r:.1f} Z" '
                         f'fill="{star}"/>')  # fmt: skip
    return "".join(parts)


def _blobs(stage: Stage) -> str:
    rng, parts = stage.rng, []
    for nth, (x, y) in enumerate(((0.02, 0.1), (0.95, 0.08), (0.05, 0.95), (0.98, 0.9))):
        cx, cy, points = x * stage.width, y * stage.height, []
        for turn in range(7):
            reach = stage.short * rng.uniform(0.2, 0.38)
            angle = math.tau * turn / 7
            points.append((cx + reach * math.cos(angle), cy + reach * math.sin(angle)))
        middles = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
                   for a, b in zip(points, [*points[1:], points[0]], strict=True)]  # fmt: skip
        d = f"M{middles[-1][0]:.0f},{middles[-1][1]:.0f}"
        for (px, py), (mx, my) in zip(points, middles, strict=True):
            d += f" Q{px:.0f},{py:.0f} {mx:.0f},{my:.0f}"
        fill = mix(stage.ground, stage.others[nth % len(stage.others)], 0.6)
        parts.append(f'<path d="{d} Z" fill="{fill}"/>')
    return "".join(parts)


def _sprigs(stage: Stage) -> str:
    rng, parts = stage.rng, []
    for nth in range(11):
        edge = nth % 4
        x = stage.width * (rng.random() if edge < 2 else edge - 2 + rng.uniform(-0.03, 0.03))
        y = stage.height * (rng.random() if edge >= 2 else edge + rng.uniform(-0.03, 0.03))
        lean = math.degrees(math.atan2(stage.height / 2 - y, stage.width / 2 - x)) + 90
        fill = mix(stage.ground, stage.others[rng.integers(len(stage.others))], 0.65)
        size = stage.short * rng.uniform(0.0011, 0.0017)
        leaves = "".join(
            f'<ellipse cx="{side * 15}" cy="{-20 - 24 * row}" rx="16" ry="7" '
            f'transform="rotate({side * -38} {side * 15} {-20 - 24 * row})"/>'
            for row in range(5) for side in (-1, 1)
        )  # fmt: skip
        parts.append(f'<g transform="translate({x:.0f} {y:.0f}) rotate({lean:.0f}) '
                     f'scale({size:.3f})" fill="{fill}"><rect x="-2" y="-140" width="4" '
                     f'height="150"/>{leaves}<ellipse cy="-146" rx="7" ry="15"/></g>')  # fmt: skip
    return "".join(parts)


_DRAW: dict[Backdrop, Callable[[Stage], str]] = {
    "plain": lambda stage: "",
    "table": _table,
    "hills": _hills,
    "bokeh": _bokeh,
    "dots": _dots,
    "stripes": _stripes,
    "checks": _checks,
    "sunburst": _sunburst,
    "waves": _waves,
    "terrazzo": _terrazzo,
    "disc": _spot,
    "arch": _arch,
    "stars": _stars,
    "blobs": _blobs,
    "sprigs": _sprigs,
}
