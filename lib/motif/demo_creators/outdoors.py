"""Drawings of things outdoors; each takes a pen whose box is [-100, 100] squared, y downwards."""

import math

from motif.demo_creators.colours import darker, lighter, mix
from motif.demo_creators.pen import Pen

_BARK, _LEAF, _GLASS = "#8a5a3c", "#5f9e4f", "#bfe3f0"


def car(pen: Pen) -> None:
    """A small car seen from the side."""
    t = pen.tints
    pen.path("M-94,44 C-98,10 -84,2 -58,-2 C-44,-40 -34,-48 -6,-48 L16,-48 C40,-48 50,-26 60,-2 "
             "C86,2 98,8 96,44 Z", t.main)  # fmt: skip
    pen.shade("M-95,28 L97,28 L96,44 L-94,44 Z")
    glass = mix(_GLASS, t.pale, 0.3)
    pen.path("M-46,-4 C-38,-32 -30,-38 -10,-38 L-6,-38 L-6,-4 Z", glass)
    pen.path("M4,-38 L14,-38 C32,-38 40,-22 46,-4 L4,-4 Z", glass)
    pen.gloss("M-30,-6 L-18,-36 L-10,-36 L-22,-6 Z")
    pen.stroke("M-2,-2 L-2,36 M6,12 L18,12", darker(t.main, 0.4), 3)
    pen.ellipse(88, 14, (8, 9), "#ffe6a0")
    pen.ellipse(-90, 16, (5, 9), "#d1344b")
    pen.rect(-100, 36, (200, 11), mix(t.second, "#b9bec8", 0.5), corner=5)
    if pen.chance(0.35):
        pen.rect(-30, -66, (56, 17), mix(_BARK, t.second, 0.4), corner=4)
    for x in (-54, 54):
        pen.circle(x, 44, 24, t.ink)
        pen.circle(x, 44, 12, mix(t.pale, "#b9bec8", 0.4), outline=False)
        pen.circle(x, 44, 4.5, t.ink, outline=False)


def bicycle(pen: Pen) -> None:
    """A bicycle seen from the side, with or without a basket."""
    t = pen.tints
    tyre = t.outline
    for x in (-54, 54):
        pen.stroke(f"M{x - 42},40 a42,42 0 1 0 84,0 a42,42 0 1 0 -84,0", tyre, 7)
        for spoke in range(6):
            angle = math.pi * spoke / 6 + pen.around(0, 0.3)
            dx, dy = 39 * math.cos(angle), 39 * math.sin(angle)
            d = f"M{x - dx:.1f},{40 - dy:.1f} L{x + dx:.1f},{40 + dy:.1f}"
            pen.stroke(d, mix(tyre, "#b9bec8", 0.6), 1.5)
    pen.tube("M-54,40 L-26,-28 L34,-28 L-6,40 Z M-26,-28 L-6,40 M54,40 L30,-46", t.main, 7)
    pen.stroke("M-26,-28 L-31,-44", t.main, 6)
    pen.path("M-54,-50 C-44,-58 -20,-54 -10,-48 C-14,-40 -44,-40 -54,-50 Z", t.accent)
    pen.tube("M30,-46 C28,-62 40,-66 60,-62", t.main, 6)
    pen.stroke("M48,-63 L62,-61", t.accent, 9)
    pen.circle(-6, 40, 11, t.second)
    pen.stroke("M-14,26 L2,54 M-4,58 L10,56", tyre, 5)
    if pen.chance(0.5):
        pen.path("M52,-46 L98,-46 L90,-12 L58,-12 Z", mix(_BARK, "#e0b070", 0.6))
        pen.stroke("M56,-34 L95,-34 M58,-23 L92,-23", darker(_BARK, 0.1), 2.4)


def tree(pen: Pen) -> None:
    """A broad tree, or a fir."""
    t = pen.tints
    leaf = mix(t.main, _LEAF, 0.4)
    pen.path("M-11,30 L-18,96 C-6,92 6,92 18,96 L11,30 Z", mix(_BARK, t.ink, 0.15))
    if pen.chance(0.35):
        for top, half, base in ((-8, 66, 62), (-52, 54, 20), (-96, 40, -24)):
            pen.path(f"M0,{top} L{half},{base} C{half / 2},{base + 8} {-half / 2},{base + 8} "
                     f"{-half},{base} Z", leaf)  # fmt: skip
            pen.shade(f"M0,{top} L{half},{base} C{half / 2},{base + 6} 14,{base + 6} 8,{base} Z")
        return
    pen.tube("M0,44 L-24,14 M2,34 L22,12", mix(_BARK, t.ink, 0.15), 7)
    pen.path("M-58,34 C-98,34 -102,-18 -72,-30 C-80,-70 -36,-86 -18,-72 C-4,-106 56,-98 54,-62 "
             "C88,-62 102,-18 78,-2 C84,30 44,46 24,28 C4,48 -38,48 -58,34 Z", leaf)  # fmt: skip
    pen.shade("M78,-2 C84,30 44,46 24,28 C4,48 -38,48 -58,34 C-10,36 40,20 54,-62 C88,-62 102,-18 "
              "78,-2 Z")  # fmt: skip
    pen.gloss("M-60,-30 C-62,-58 -36,-70 -20,-60 C-34,-54 -48,-46 -60,-30 Z")
    if pen.chance(0.5):
        for x, y in ((-46, -8), (-10, -44), (30, -60), (46, -16), (4, 8), (-30, 22)):
            pen.circle(x, y, 6.5, t.accent)


def house(pen: Pen) -> None:
    """A cottage with a door, two windows and a chimney."""
    t = pen.tints
    pen.rect(34, -82, (20, 46), darker(t.second, 0.25))
    pen.rect(-68, -16, (136, 108), mix(t.pale, t.main, 0.25))
    pen.shade("M30,-16 L68,-16 L68,92 L30,92 Z")
    pen.path("M-92,-8 L0,-92 L92,-8 L80,6 L0,-66 L-80,6 Z", darker(t.main, 0.1))
    pen.path("M-68,-4 L0,-66 L68,-4 Z", mix(t.pale, t.main, 0.25), outline=False)
    pen.path("M-92,-8 L0,-92 L92,-8 L80,6 L0,-68 L-80,6 Z", t.main)
    pen.circle(0, -26, 13, mix(_GLASS, t.pale, 0.2))
    door = pen.around(-8, 8)
    pen.path(f"M{door - 19:.0f},92 L{door - 19:.0f},48 C{door - 19:.0f},26 {door + 19:.0f},26 "
             f"{door + 19:.0f},48 L{door + 19:.0f},92 Z", t.accent)  # fmt: skip
    pen.circle(door + 10, 64, 3, t.pale, outline=False)
    for x in (-58, 32):
        pen.rect(x, 18, (26, 32), "#ffe6a0" if pen.chance(0.5) else _GLASS, corner=2)
        pen.stroke(f"M{x + 13},18 L{x + 13},50 M{x},34 L{x + 26},34", mix(t.ink, t.second, 0.3), 3)
        pen.rect(x - 3, 50, (32, 7), t.second)
    for x in (-66, -50, 46, 64):
        pen.circle(x, 86, 12, mix(t.second, _LEAF, 0.6))


def flower(pen: Pen) -> None:
    """A daisy or a tulip on its stem."""
    t = pen.tints
    stem = mix(t.second, _LEAF, 0.7)
    bend = pen.around(-14, 14)
    pen.tube(f"M0,-20 C{bend:.0f},20 {bend:.0f},50 0,96", stem, 7)
    pen.path("M2,74 C20,30 52,26 74,24 C66,58 34,74 2,80 Z", stem)
    pen.path("M-2,84 C-18,52 -44,46 -64,46 C-58,74 -30,86 -2,90 Z", darker(stem, 0.12))
    if pen.chance(0.3):
        pen.path("M-46,-84 C-20,-72 20,-72 46,-84 C54,-30 34,-2 0,-2 C-34,-2 -54,-30 -46,-84 Z",
                 t.main)  # fmt: skip
        pen.path("M-4,-96 C-36,-60 -34,-20 0,-2 C34,-20 36,-60 4,-96 Z", lighter(t.main, 0.3))
        return
    petals = int(pen.rng.integers(9, 14))
    for petal in range(petals):
        turn = 360 * petal / petals
        x, y = 38 * math.sin(math.radians(turn)), -38 - 38 * math.cos(math.radians(turn))
        pen.ellipse(x, y, (12, 25), t.main if petal % 2 else lighter(t.main, 0.22), turn=turn)
    pen.circle(0, -38, 21, mix(t.accent, "#f4c020", 0.55))
    for x, y in ((-8, -44), (6, -46), (0, -36), (9, -33), (-7, -30)):
        pen.circle(x, y, 2.2, darker(t.accent, 0.4), outline=False)


def sailing_boat(pen: Pen) -> None:
    """A sailing boat on two waves."""
    t = pen.tints
    pen.rect(-5, -94, (7, 128), mix(_BARK, t.ink, 0.2))
    fill = pen.around(-8, 10)
    pen.path(f"M6,-88 C{50 + fill:.0f},-60 {72 + fill:.0f},-10 76,20 L6,24 Z", t.pale)
    pen.path(f"M6,-30 C30,-30 {52 + fill:.0f},-26 {64 + fill * 0.6:.0f},-16 L70,0 "
             "C46,-8 26,-8 6,-6 Z", t.second, outline=False)  # fmt: skip
    pen.path(f"M-10,-78 C{-44 - fill:.0f},-48 {-58 - fill:.0f},-4 -64,20 L-10,24 Z", t.accent)
    pen.path("M-2,-96 L-30,-90 L-2,-82 Z", t.main)
    pen.path("M-88,34 L90,34 C82,62 64,78 44,78 L-48,78 C-66,78 -80,60 -88,34 Z", t.main)
    pen.path("M-88,34 L90,34 L86,46 L-84,46 Z", lighter(t.main, 0.35), outline=False)
    for x in (-40, -4, 32):
        pen.circle(x, 60, 6.5, t.pale)
    wave = mix("#4f9fc8", t.second, 0.3)
    pen.path("M-100,78 C-84,64 -68,64 -50,78 C-34,64 -18,64 0,78 C16,64 32,64 50,78 C66,64 84,64 "
             "100,78 C96,100 -96,100 -100,78 Z", wave)  # fmt: skip
    pen.stroke("M-70,86 C-58,80 -46,80 -34,86 M20,86 C32,80 44,80 56,86", lighter(wave, 0.5), 3)


def mountain(pen: Pen) -> None:
    """Two peaks with snow, and firs at their foot."""
    t = pen.tints
    rock, peak = t.main, pen.around(-12, 12)
    if pen.chance(0.6):
        pen.circle(60, -66, 20, mix(t.accent, "#ffd166", 0.5))
    pen.path("M-10,80 L48,-40 L100,80 Z", mix(rock, t.pale, 0.35))
    pen.path("M48,-40 L30,-4 L42,-12 L50,0 L58,-10 L66,0 Z", "#ffffff", outline=False)
    pen.path(f"M-100,80 L{-24 + peak:.0f},-88 L62,80 Z", rock)
    pen.shade(f"M{-24 + peak:.0f},-88 L62,80 L4,80 L{-14 + peak:.0f},20 Z")
    x = -24 + peak
    pen.path(f"M{x:.0f},-88 L{x - 25:.0f},-32 L{x - 14:.0f},-42 L{x - 5:.0f},-22 L{x + 4:.0f},-40 "
             f"L{x + 14:.0f},-26 L{x + 29:.0f},-32 Z", "#ffffff")  # fmt: skip
    fir = mix(darker(t.second, 0.3), _LEAF, 0.4)
    for foot, high in ((-82, 34), (-62, 46), (-40, 32), (30, 36), (54, 48), (78, 34)):
        pen.path(f"M{foot},{92 - high} L{foot + 15},88 L{foot - 15},88 Z", fir)
    pen.path("M-100,84 C-40,74 40,74 100,84 L96,96 L-96,96 Z", mix(t.second, _LEAF, 0.5))


def apple(pen: Pen) -> None:
    """An apple with a leaf."""
    t = pen.tints
    skin = mix(t.main, "#d8362f", 0.2)
    pen.path("M0,-44 C26,-66 86,-58 84,4 C82,62 42,96 16,92 C6,88 -6,88 -16,92 C-42,96 -82,62 "
             "-84,4 C-86,-58 -26,-66 0,-44 Z", skin)  # fmt: skip
    pen.shade("M0,-44 C26,-66 86,-58 84,4 C82,62 42,96 16,92 C66,66 76,-30 0,-44 Z")
    pen.gloss("M-66,2 C-70,-26 -54,-42 -36,-42 C-50,-30 -54,-14 -54,10 Z")
    pen.path("M-26,-48 C-10,-34 10,-34 26,-48 C14,-40 -14,-40 -26,-48 Z", darker(skin, 0.45),
             outline=False)  # fmt: skip
    pen.tube("M0,-42 C-2,-62 4,-76 12,-88", mix(_BARK, t.ink, 0.2), 7)
    lift = pen.around(-8, 8)
    pen.path(f"M6,-62 C22,-96 56,-92 74,{-84 + lift:.0f} C64,-56 32,-48 6,-62 Z", _LEAF)
    pen.stroke(f"M10,-63 C32,-70 50,-76 66,{-82 + lift:.0f}", darker(_LEAF, 0.35), 2.6)


def strawberry(pen: Pen) -> None:
    """A strawberry with its leaves."""
    t = pen.tints
    flesh = mix(t.main, "#e0323f", 0.45)
    pen.path("M0,-46 C40,-70 86,-46 78,-4 C70,44 28,92 0,96 C-28,92 -70,44 -78,-4 "
             "C-86,-46 -40,-70 0,-46 Z", flesh)  # fmt: skip
    pen.shade("M0,-46 C40,-70 86,-46 78,-4 C70,44 28,92 0,96 C50,56 76,-16 0,-46 Z")
    for row, (y, xs) in enumerate(
        ((-24, (-50, -18, 14, 48)), (4, (-62, -32, 0, 32, 60)), (30, (-42, -15, 15, 42)),
         (54, (-26, 0, 26)), (76, (-8, 10)))
    ):  # fmt: skip
        for x in xs:
            pen.ellipse(x, y + row, (3.2, 5.2), "#fbe3a0", outline=False)
    pen.stroke("M0,-58 C0,-76 8,-86 16,-92", darker(_LEAF, 0.15), 8)
    for turn in (-66, -34, 0, 34, 66):
        x, y = 30 * math.sin(math.radians(turn)), -50 + 14 * (1 - math.cos(math.radians(turn)))
        pen.ellipse(x, y, (10, 25), _LEAF, turn=turn + 180)
    pen.circle(0, -62, 9, _LEAF, outline=False)


def hot_air_balloon(pen: Pen) -> None:
    """A striped hot-air balloon with its basket."""
    t = pen.tints
    for x in (-16, 16):
        pen.stroke(f"M{x * 1.5},48 L{x},76", t.outline, 2.6)
    pen.rect(-18, 72, (36, 25), mix(_BARK, "#d9a05b", 0.5), corner=5)
    pen.stroke("M-17,80 L17,80", darker(_BARK, 0.2), 3)
    pen.path("M0,-98 C52,-98 80,-62 76,-22 C72,12 44,32 26,54 L-26,54 C-44,32 -72,12 -76,-22 "
             "C-80,-62 -52,-98 0,-98 Z", t.main)  # fmt: skip
    other = t.second
    for s in (-1, 1):
        pen.path(f"M{s * 4},-98 C{s * 40},-92 {s * 54},-52 {s * 50},-16 C{s * 46},14 {s * 26},34 "
                 f"{s * 17},54 L{s * 8},54 C{s * 14},34 {s * 22},10 {s * 24},-18 C{s * 26},-52 "
                 f"{s * 18},-88 {s * 4},-98 Z", other, outline=False)  # fmt: skip
    pen.path("M-74,-34 C-50,-20 50,-20 74,-34 L76,-18 C50,-4 -50,-4 -76,-18 Z", t.accent,
             outline=False)  # fmt: skip
    pen.shade("M34,-90 C68,-78 80,-50 76,-22 C72,12 44,32 26,54 L12,54 C52,12 64,-44 34,-90 Z")
    pen.gloss("M-58,-26 C-60,-56 -44,-78 -26,-84 C-40,-66 -44,-46 -44,-22 Z")


def mushroom(pen: Pen) -> None:
    """A toadstool with spots, and often a small one beside it."""
    t = pen.tints
    cap = mix(t.main, "#d8362f", 0.15)
    if pen.chance(0.6):
        pen.path("M50,52 C54,70 50,84 46,94 L78,94 C74,84 70,70 74,52 Z", t.pale)
        pen.path("M32,58 C34,28 90,28 92,58 C80,66 44,66 32,58 Z", cap)
    pen.path("M-26,6 C-20,40 -28,74 -36,94 L30,94 C22,74 16,40 22,6 Z", t.pale)
    pen.shade("M4,10 L22,6 C16,40 22,74 30,94 L6,94 C12,64 10,36 4,10 Z")
    pen.ellipse(-2, 8, (70, 14), darker(t.pale, 0.22))
    pen.path("M-92,8 C-90,-58 -46,-94 -2,-94 C42,-94 86,-58 88,8 C60,22 40,0 -2,0 C-44,0 -64,22 "
             "-92,8 Z", cap)  # fmt: skip
    pen.shade("M-2,-94 C42,-94 86,-58 88,8 C78,12 68,12 58,9 C74,-30 50,-76 -2,-94 Z")
    for x, y, size in ((-50, -28, 13), (-8, -60, 16), (40, -40, 14), (2, -20, 9), (66, -10, 8)):
        nudge = pen.around(-4, 4)
        pen.ellipse(x + nudge, y, (size, size * 0.8), t.pale, outline=False)
    pen.path("M-56,94 C-50,76 -46,84 -42,94 C-38,70 -32,80 -30,94 Z", _LEAF, outline=False)


def lighthouse(pen: Pen) -> None:
    """A striped lighthouse on a rock."""
    t = pen.tints
    pen.path("M-82,96 C-70,66 -46,72 -34,62 L36,62 C56,66 70,72 84,96 Z",
             mix(t.ink, "#8a8f98", 0.6))  # fmt: skip
    pen.path("M-25,-46 L25,-46 L38,70 L-38,70 Z", mix(t.pale, "#ffffff", 0.3))
    for top, half in ((-22, 27.5), (26, 33)):
        pen.path(f"M{-half},{top} L{half},{top} L{half + 3},{top + 24} L{-half - 3},{top + 24} Z",
                 t.main, outline=False)  # fmt: skip
    pen.shade("M8,-46 L25,-46 L38,70 L14,70 Z")
    pen.rect(-34, -54, (68, 10), darker(t.main, 0.3), corner=3)
    pen.rect(-18, -80, (36, 27), "#ffe6a0")
    pen.stroke("M-6,-80 L-6,-54 M6,-80 L6,-54", t.ink, 2.4)
    pen.path("M-24,-78 C-20,-98 20,-98 24,-78 Z", t.main)
    pen.path("M-9,70 L-9,52 C-9,42 9,42 9,52 L9,70 Z", t.accent)
    for y in (-6, 14):
        pen.rect(-5, y, (10, 12), t.ink, corner=4, outline=False)
    for s in (-1, 1):
        if pen.chance(0.7):
            pen.polygon(f"{s * 20},-70 {s * 98},-92 {s * 98},-50 {s * 20},-64", "#fff0b3cc",
                        outline=False)  # fmt: skip
