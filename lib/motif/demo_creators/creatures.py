"""Drawings of animals; each takes a pen whose box is [-100, 100] squared, y downwards."""

from motif.demo_creators.colours import darker, lighter, mix
from motif.demo_creators.pen import Pen


def _eyes(pen: Pen, x: float, y: float, size: float) -> None:
    """Two round eyes about the middle, each with a glint."""
    for side in (-x, x):
        pen.ellipse(side, y, (size, size * 1.25), pen.tints.ink, outline=False)
        pen.circle(side + size * 0.3, y - size * 0.45, size * 0.38, "#ffffff", outline=False)


def cat(pen: Pen) -> None:
    """A sitting cat, seen from the front."""
    t = pen.tints
    sway = pen.around(-12, 18)
    pen.tube(f"M34,84 C88,92 {96 + sway:.0f},40 {70 + sway:.0f},8", t.main, 15)
    pen.path("M-44,94 C-62,30 -34,-8 0,-8 C34,-8 62,30 44,94 Z", t.main)
    pen.ellipse(0, 46, (21, 34), lighter(t.main, 0.45), outline=False)
    pen.shade("M44,94 C62,30 34,-8 8,-8 C34,20 40,60 22,94 Z")
    for side in (-1, 1):
        pen.path(f"M{side * 46},-36 L{side * 42},-97 L{side * 6},-70 Z", t.main)
        inner = f"M{side * 39},-56 L{side * 37},-84 L{side * 19},-70 Z"
        pen.path(inner, mix(t.accent, t.pale, 0.25), outline=False)
        pen.ellipse(side * 19, 90, (17, 10), lighter(t.main, 0.25))
    pen.ellipse(0, -38, (52, 40), t.main)
    for x in (-13, 0, 13):
        pen.stroke(f"M{x},-74 L{x * 0.8},-60", darker(t.main, 0.38), 5)
    pen.ellipse(0, -21, (22, 14), lighter(t.main, 0.5), outline=False)
    for side in (-1, 1):
        pen.ellipse(side * 22, -42, (10, 12), mix(t.accent, "#ffffff", 0.55), outline=False)
        pen.ellipse(side * 22, -42, (4.5, 10.5), t.ink, outline=False)
        pen.circle(side * 22 + 3, -47, 3, "#ffffff", outline=False)
        for lift in (-7, 1, 9):
            pen.stroke(f"M{side * 25},-22 L{side * 70},{-25 + lift * 1.6:.0f}", t.outline, 1.8)
    pen.path("M-7,-30 L7,-30 L0,-22 Z", darker(t.accent, 0.15), outline=False)
    pen.stroke("M0,-22 C0,-12 -11,-12 -13,-17 M0,-22 C0,-12 11,-12 13,-17", t.ink, 2.4)


def dog(pen: Pen) -> None:
    """A sitting dog with hanging ears, a collar and its tongue out."""
    t = pen.tints
    ear, muzzle = darker(t.main, 0.42), lighter(t.main, 0.62)
    wag = pen.around(-14, 14)
    pen.tube(f"M38,76 C66,70 84,52 {84 + wag:.0f},28", t.main, 13)
    pen.path("M-42,94 C-56,40 -34,0 0,0 C34,0 56,40 42,94 Z", t.main)
    pen.path("M-20,94 C-26,50 -18,14 0,14 C18,14 26,50 20,94 Z", muzzle, outline=False)
    pen.shade("M42,94 C56,40 34,0 14,2 C36,30 38,66 24,94 Z")
    for side in (-1, 1):
        pen.ellipse(side * 22, 90, (19, 10), lighter(t.main, 0.2))
    pen.path("M-30,6 C-14,20 14,20 30,6 L28,18 C12,32 -12,32 -28,18 Z", t.accent)
    pen.circle(0, 29, 7, "#f2c94c")
    pen.path("M-46,-42 C-50,-82 -26,-96 0,-96 C26,-96 50,-82 46,-42 C46,-8 24,8 0,8 "
             "C-24,8 -46,-8 -46,-42 Z", t.main)  # fmt: skip
    if pen.chance(0.6):
        pen.ellipse(21, -54, (17, 20), ear, outline=False)
    pen.path("M0,-92 C-7,-72 -9,-52 -24,-30 C-34,-8 -16,6 0,6 C16,6 34,-8 24,-30 "
             "C9,-52 7,-72 0,-92 Z", muzzle, outline=False)  # fmt: skip
    for side in (-1, 1):
        s = side
        pen.path(f"M{s * 30},-90 C{s * 62},-92 {s * 80},-50 {s * 66},-14 "
                 f"C{s * 58},-4 {s * 44},-14 {s * 44},-34 C{s * 44},-60 {s * 40},-74 "
                 f"{s * 30},-90 Z", ear)  # fmt: skip
    _eyes(pen, 20, -52, 7)
    pen.path("M-7,-12 C-9,14 9,14 7,-12 Z", "#e8737f", outline=False)
    pen.stroke("M0,-24 L0,-13 M-20,-17 C-14,-8 -4,-8 0,-13 C4,-8 14,-8 20,-17", t.ink, 3)
    pen.ellipse(0, -29, (13, 9), t.ink, outline=False)
    pen.ellipse(-4, -32, (4, 2.4), "#ffffff", outline=False)


def bird(pen: Pen) -> None:
    """A round songbird on a twig, seen from the side."""
    t = pen.tints
    pen.tube("M-98,78 C-40,70 30,84 98,72", mix(t.ink, "#8a5a3c", 0.6), 9)
    pen.path("M74,70 C88,52 96,60 98,44 C80,40 70,52 74,70 Z", mix(t.second, "#5f9e4f", 0.5))
    for x in (-8, 14):
        pen.stroke(f"M{x},52 L{x - 2},76 M{x - 10},78 L{x + 8},76", darker(t.accent, 0.35), 4.5)
    lift = pen.around(-10, 12)
    pen.path(f"M40,16 L{98},{-2 + lift:.0f} L{90},{24 + lift:.0f} L34,46 Z", darker(t.main, 0.3))
    pen.path("M-52,-52 C-40,-92 8,-92 22,-58 C34,-34 70,-14 60,20 C50,58 6,70 -24,54 "
             "C-60,34 -66,-14 -52,-52 Z", t.main)  # fmt: skip
    pen.path("M-57,-22 C-40,-34 -10,-20 4,14 C14,40 4,58 -10,57 C-52,50 -64,14 -57,-22 Z",
             mix(t.accent, t.pale, 0.4), outline=False)  # fmt: skip
    pen.path("M-4,-22 C22,-36 60,-8 74,30 C40,44 -2,34 -4,-22 Z", darker(t.main, 0.22))
    pen.stroke("M14,-2 C26,16 44,26 62,30 M8,8 C18,24 32,32 48,34", darker(t.main, 0.45), 3)
    pen.path("M-52,-52 L-88,-40 L-53,-32 Z", "#f0a033")
    pen.circle(-26, -52, 9.5, "#ffffff", outline=False)
    pen.circle(-28, -52, 6.5, t.ink, outline=False)
    pen.circle(-30, -55, 2.2, "#ffffff", outline=False)


def fish(pen: Pen) -> None:
    """A goldfish, seen from the side, with bubbles."""
    t = pen.tints
    fin, flick = mix(t.main, t.second, 0.55), pen.around(-10, 10)
    pen.path(f"M44,0 C66,-14 86,-46 {98 + flick * 0.2:.0f},{-50 + flick:.0f} C88,-18 88,14 "
             f"{98 - flick * 0.2:.0f},{50 + flick:.0f} C84,46 64,16 44,0 Z", fin)  # fmt: skip
    pen.path("M-36,-40 C-20,-84 24,-78 44,-62 C36,-50 34,-36 36,-24 Z", fin)
    pen.path("M-10,40 C-6,66 16,76 28,74 C24,58 26,44 30,30 Z", fin)
    pen.path("M-92,2 C-70,-52 20,-66 62,0 C20,62 -70,52 -92,2 Z", t.main)
    pen.path("M-84,14 C-52,56 20,56 58,6 C10,34 -52,34 -84,14 Z", lighter(t.main, 0.45),
             outline=False)  # fmt: skip
    pen.path("M-46,-36 C-32,-14 -32,16 -46,36 C-38,40 -36,40 -32,41 C-18,16 -18,-16 -32,-41 Z",
             lighter(t.second, 0.25), outline=False)  # fmt: skip
    for x in (-8, 12, 32):
        reach = 15 if x < 30 else 9
        for y in (-reach, 0, reach):
            d = f"M{x},{y - 7} C{x + 9},{y - 4} {x + 9},{y + 4} {x},{y + 7}"
            pen.stroke(d, darker(t.main, 0.3), 2.6)
    pen.path("M-22,10 C-6,10 12,22 8,36 C-8,36 -22,26 -22,10 Z", fin)
    pen.circle(-62, -9, 11, "#ffffff")
    pen.circle(-64, -9, 6, t.ink, outline=False)
    pen.circle(-66, -12, 2.2, "#ffffff", outline=False)
    pen.stroke("M-89,12 C-82,16 -78,16 -74,13", t.ink, 3)
    for x, y, radius in ((-84, -44, 7), (-94, -66, 5), (-78, -80, 8)):
        pen.circle(x, y, radius, lighter(t.second, 0.55))


def butterfly(pen: Pen) -> None:
    """A butterfly from above, wings open."""
    t = pen.tints
    fold = pen.around(0.86, 1.0)
    for s in (-fold, fold):
        pen.path(f"M{s * 4},0 C{s * 24},10 {s * 84},16 {s * 76},58 C{s * 66},94 {s * 22},84 "
                 f"{s * 4},18 Z", t.second)  # fmt: skip
        pen.path(f"M{s * 4},-4 C{s * 14},-56 {s * 66},-98 {s * 94},-76 C{s * 106},-46 "
                 f"{s * 74},14 {s * 4},12 Z", t.main)  # fmt: skip
        pen.path(f"M{s * 16},-12 C{s * 26},-46 {s * 56},-76 {s * 76},-64 C{s * 82},-44 "
                 f"{s * 58},-6 {s * 16},-2 Z", lighter(t.main, 0.4), outline=False)  # fmt: skip
        for x, y in ((40, -20), (34, -34)):
            pen.stroke(f"M{s * 12},-6 L{s * (x + 30)},{y - 18}", darker(t.main, 0.35), 2.6)
        pen.circle(s * 84, -62, 6, t.pale, outline=False)
        pen.circle(s * 86, -44, 4, t.pale, outline=False)
        pen.circle(s * 50, 50, 14, t.accent, outline=False)
        pen.circle(s * 50, 50, 6.5, t.pale, outline=False)
        pen.stroke(f"M{s * 2},-36 C{s * 6},-60 {s * 16},-74 {s * 24},-80", t.ink, 2.8)
        pen.circle(s * 24, -80, 3.6, t.ink, outline=False)
    pen.ellipse(0, 14, (7, 44), t.ink)
    pen.circle(0, -34, 9, t.ink)


def penguin(pen: Pen) -> None:
    """A standing penguin, with or without a scarf."""
    t = pen.tints
    coat, flap = mix(t.ink, t.main, 0.28), pen.around(0, 16)
    for s in (-1, 1):
        pen.ellipse(s * 22, 91, (22, 8), "#f0a033", turn=s * 6)
        pen.path(f"M{s * 42},-20 C{s * (72 + flap):.0f},4 {s * (82 + flap):.0f},34 "
                 f"{s * (68 + flap):.0f},58 C{s * 56},46 {s * 46},30 {s * 40},14 Z",
                 darker(coat, 0.15))  # fmt: skip
    pen.path("M0,-98 C44,-98 46,-54 50,-20 C62,26 60,90 0,90 C-60,90 -62,26 -50,-20 "
             "C-46,-54 -44,-98 0,-98 Z", coat)  # fmt: skip
    pen.path("M0,-14 C30,-14 42,16 40,44 C38,74 22,84 0,84 C-22,84 -38,74 -40,44 "
             "C-42,16 -30,-14 0,-14 Z", t.pale, outline=False)  # fmt: skip
    pen.path("M0,-62 C8,-80 36,-78 33,-50 C30,-28 12,-24 0,-24 C-12,-24 -30,-28 -33,-50 "
             "C-36,-78 -8,-80 0,-62 Z", t.pale, outline=False)  # fmt: skip
    _eyes(pen, 15, -56, 5.5)
    pen.path("M-13,-46 C-4,-54 4,-54 13,-46 L0,-30 Z", "#f0a033")
    if pen.chance(0.6):
        pen.path("M24,-14 L46,34 L26,38 L12,-10 Z", darker(t.main, 0.1))
        pen.path("M-46,-26 C-20,-8 20,-8 46,-26 L50,-10 C20,10 -20,10 -50,-10 Z", t.main)
