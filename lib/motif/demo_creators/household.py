"""Drawings of things indoors; each takes a pen whose box is [-100, 100] squared, y downwards."""

import math

from motif.demo_creators.colours import darker, lighter, mix
from motif.demo_creators.pen import Pen

_WOOD, _METAL = "#a9714b", "#b9bec8"


def coffee_cup(pen: Pen) -> None:
    """A cup of coffee on a saucer, steaming."""
    t = pen.tints
    pen.ellipse(-6, 78, (88, 17), mix(t.main, t.pale, 0.55))
    pen.ellipse(-6, 75, (54, 9), darker(mix(t.main, t.pale, 0.4), 0.12), outline=False)
    pen.tube("M50,-4 C98,-14 96,52 40,44", t.main, 13)
    pen.path("M-68,-22 C-68,34 -54,76 -6,76 C42,76 56,34 56,-22 Z", t.main)
    pen.shade("M22,-14 L56,-22 C56,34 42,76 -6,76 C20,66 30,30 22,-14 Z")
    pen.gloss("M-56,-8 C-56,24 -48,50 -34,60 C-44,36 -46,14 -44,-6 Z")
    if pen.chance(0.5):
        pen.path("M-66,6 C-30,18 18,18 54,6 L51,24 C18,36 -30,36 -63,24 Z", t.second, outline=False)
    else:
        pen.path("M-6,52 C-34,34 -24,12 -6,24 C12,12 22,34 -6,52 Z", t.accent, outline=False)
    pen.ellipse(-6, -22, (62, 15), lighter(t.main, 0.45))
    pen.ellipse(-6, -19, (53, 10.5), "#6b3f2a", outline=False)
    pen.ellipse(-14, -20, (24, 5), "#a87450", outline=False)
    sway = pen.around(-8, 8)
    for x in (-30, -4, 22):
        d = f"M{x},-42 C{x - 14 + sway:.0f},-56 {x + 14 + sway:.0f},-70 {x + sway:.0f},-88"
        pen.stroke(d, mix(t.pale, t.outline, 0.12), 5)


def teapot(pen: Pen) -> None:
    """A round teapot with its spout to the left."""
    t = pen.tints
    pen.tube("M50,-18 C104,-36 104,50 46,46", darker(t.main, 0.12), 13)
    pen.path("M-44,44 C-72,36 -68,-6 -98,-30 L-78,-40 C-58,-20 -50,-8 -38,-10 Z", t.main)
    pen.path("M0,-42 C44,-42 66,-12 62,24 C58,60 36,76 0,76 C-36,76 -58,60 -62,24 "
             "C-66,-12 -44,-42 0,-42 Z", t.main)  # fmt: skip
    pen.shade("M24,-38 C48,-30 66,-8 62,24 C58,60 36,76 0,76 C36,60 46,0 24,-38 Z")
    pen.gloss("M-46,-4 C-52,14 -48,36 -38,48 C-42,26 -40,4 -30,-16 Z")
    pen.path("M-61,12 C-30,26 30,26 61,12 L61,34 C30,48 -30,48 -61,34 Z", t.second, outline=False)
    for x in (-36, -12, 12, 36):
        pen.circle(x, 36 - abs(x) * 0.14, 5.5, t.pale, outline=False)
    pen.rect(-38, 74, (76, 12), darker(t.main, 0.2), corner=5)
    pen.path("M-40,-38 C-36,-66 36,-66 40,-38 C20,-30 -20,-30 -40,-38 Z", lighter(t.main, 0.2))
    pen.circle(0, -70, 11, t.accent)


def chair(pen: Pen) -> None:
    """A dining chair seen from a little to the right."""
    t = pen.tints
    wood, high = mix(_WOOD, t.second, 0.35), pen.around(-4, 6)
    for x, foot in ((-30, 74), (56, 74)):
        pen.tube(f"M{x},24 L{x + 4},{foot}", darker(wood, 0.25), 8)
    for x in (-44, 36):
        pen.tube(f"M{x},{-88 + high:.0f} L{x - 2},22", wood, 9)
    for y in (-80, -56, -32):
        pen.rect(-44, y + high, (80, 13), lighter(wood, 0.12), corner=5)
    for x in (-54, 42):
        pen.tube(f"M{x},32 L{x - 4},94", wood, 9)
    pen.stroke("M-54,66 L40,66", darker(wood, 0.1), 6)
    pen.path("M-48,8 L48,8 C60,8 66,30 56,32 L-60,32 C-68,30 -60,8 -48,8 Z", t.main)
    pen.gloss("M-44,12 L20,12 L14,19 L-50,19 Z")


def clock(pen: Pen) -> None:
    """A wall clock at a random hour; half of them are alarm clocks."""
    t = pen.tints
    if pen.chance(0.5):
        for s in (-1, 1):
            pen.tube(f"M{s * 44},66 L{s * 58},90", darker(t.main, 0.3), 11)
            pen.path(f"M{s * 20},-78 C{s * 30},-104 {s * 74},-88 {s * 70},-56 Z", t.accent)
        pen.rect(-6, -98, (12, 22), darker(t.main, 0.3), corner=4)
    pen.circle(0, 4, 82, t.main)
    pen.circle(0, 4, 66, t.pale)
    pen.shade("M0,-62 A66,66 0 0 1 0,70 A74,74 0 0 0 0,-62 Z")
    for hour in range(12):
        angle = math.tau * hour / 12
        start, x, y = 50 if hour % 3 else 46, math.sin(angle), -math.cos(angle)
        d = f"M{x * start:.1f},{4 + y * start:.1f} L{x * 58:.1f},{4 + y * 58:.1f}"
        pen.stroke(d, t.ink, 3 if hour % 3 else 6)
    hour_angle, minute_angle = pen.around(0, math.tau), pen.around(0, math.tau)
    for angle, reach, width in ((hour_angle, 29, 7.0), (minute_angle, 45, 4.5)):
        x, y = math.sin(angle) * reach, 4 - math.cos(angle) * reach
        pen.stroke(f"M0,4 L{x:.1f},{y:.1f}", t.ink, width)
    pen.circle(0, 4, 6, t.accent)


def guitar(pen: Pen) -> None:
    """An acoustic guitar leaning to one side."""
    t = pen.tints
    body, neck = mix(t.main, "#c9803c", 0.35), darker(mix(_WOOD, t.main, 0.2), 0.35)
    pen.path("M-14,-98 L14,-98 L11,-70 L-11,-70 Z", neck)
    for y in (-94, -86, -78):
        for s in (-1, 1):
            pen.circle(s * 18, y, 4, mix(_METAL, t.pale, 0.3))
    pen.path("M0,-20 C28,-26 42,-4 34,16 C30,28 56,38 52,64 C48,90 24,96 0,96 C-24,96 -48,90 "
             "-52,64 C-56,38 -30,28 -34,16 C-42,-4 -28,-26 0,-20 Z", body)  # fmt: skip
    pen.path("M0,-11 C22,-17 33,0 26,18 C24,34 46,42 43,64 C40,82 20,87 0,87 C-20,87 -40,82 "
             "-43,64 C-46,42 -24,34 -26,18 C-33,0 -22,-17 0,-11 Z",
             lighter(body, 0.3), outline=False)  # fmt: skip
    pen.circle(0, 26, 19, lighter(body, 0.6), outline=False)
    pen.circle(0, 26, 15, darker(body, 0.75), outline=False)
    pen.rect(-7, -72, (14, 84), neck, corner=2)
    for y in range(-62, 8, 10):
        pen.stroke(f"M-6,{y} L6,{y}", mix(_METAL, neck, 0.3), 1.8)
    pen.rect(-21, 60, (42, 9), neck, corner=3)
    for x in (-4, -1.4, 1.4, 4):
        pen.stroke(f"M{x},-88 L{x * 1.5},64", t.pale, 1)


def umbrella(pen: Pen) -> None:
    """An open umbrella with panels in two colours."""
    t = pen.tints
    pen.tube("M0,-10 L0,74 C0,98 34,98 34,74", mix(_WOOD, t.ink, 0.25), 7)
    pen.stroke("M0,-96 L0,-78", t.ink, 6)
    pen.path("M-96,8 C-92,-108 92,-108 96,8 C80,-8 58,-8 48,8 C36,-8 12,-8 0,8 C-12,-8 -36,-8 "
             "-48,8 C-58,-8 -80,-8 -96,8 Z", t.main)  # fmt: skip
    other = t.second if pen.chance(0.7) else lighter(t.main, 0.4)
    pen.path("M0,-80 C-34,-62 -48,-26 -48,8 C-36,-8 -12,-8 0,8 Z", other, outline=False)
    pen.path("M0,-80 C58,-72 92,-40 96,8 C80,-8 58,-8 48,8 C48,-26 34,-62 0,-80 Z", other,
             outline=False)  # fmt: skip
    pen.gloss("M-82,-12 C-74,-52 -48,-70 -26,-74 C-46,-56 -60,-34 -64,-8 Z")
    if pen.line not in ("flat", "gradient"):
        pen.stroke("M0,-80 C-34,-62 -48,-26 -48,8 M0,-80 L0,8 M0,-80 C34,-62 48,-26 48,8",
                   t.outline, 2.4)  # fmt: skip


def lamp(pen: Pen) -> None:
    """A table lamp, lit."""
    t = pen.tints
    wide = pen.around(0.92, 1.08)
    pen.path("M-50,0 L-92,92 L92,92 L50,0 Z", mix("#ffe9a8", t.pale, 0.3) + "50", outline=False)
    pen.ellipse(0, 88, (42, 10), darker(t.second, 0.2))
    pen.path("M-8,14 C-8,30 -32,38 -30,60 C-28,80 -12,84 0,84 C12,84 28,80 30,60 "
             "C32,38 8,30 8,14 Z", t.second)  # fmt: skip
    pen.gloss("M-20,50 C-24,62 -18,74 -10,78 C-14,66 -12,54 -8,44 Z")
    pen.rect(-5, 0, (10, 18), mix(_METAL, t.ink, 0.2))
    pen.path(f"M{-36 * wide:.0f},-88 L{36 * wide:.0f},-88 L{72 * wide:.0f},4 "
             f"C30,14 -30,14 {-72 * wide:.0f},4 Z", t.main)  # fmt: skip
    pen.path(f"M{-20 * wide:.0f},-86 L{12 * wide:.0f},-86 L{20 * wide:.0f},9 "
             f"C0,11 -20,11 {-36 * wide:.0f},8 Z", lighter(t.main, 0.4), outline=False)  # fmt: skip
    pen.stroke(f"M{-70 * wide:.0f},0 C-30,10 30,10 {70 * wide:.0f},0", t.accent, 5)


def book(pen: Pen) -> None:
    """An open book with lines of text and a ribbon."""
    t = pen.tints
    pen.path("M-98,-44 L0,-34 L98,-44 L98,66 L0,80 L-98,66 Z", t.main)
    for layer in (6, 3, 0):
        for s in (-1, 1):
            pen.path(
                f"M0,{-46 + layer} C{s * 24},{-66 + layer} {s * 66},{-64 + layer} {s * 90},"
                f"{-54 + layer} L{s * 90},{54 + layer} C{s * 66},{44 + layer} {s * 24},"
                f"{46 + layer} 0,{68 + layer} Z",
                mix(t.pale, "#ffffff", 0.4) if layer == 0 else darker(t.pale, 0.14),
            )
    pen.shade("M0,-46 C10,-58 20,-60 28,-60 L28,48 C18,50 8,58 0,68 Z")
    text = mix(t.ink, t.pale, 0.35)
    for row in range(6):
        y = -38 + row * 13
        pen.stroke(f"M-78,{y} C-56,{y - 6} -34,{y - 7} -16,{y + 5}", text, 3)
        if row > 2:
            pen.stroke(f"M78,{y} C56,{y - 6} 34,{y - 7} 16,{y + 5}", text, 3)
    pen.path("M30,-46 C46,-52 62,-50 74,-46 L74,-14 C62,-18 46,-20 30,-14 Z", t.accent,
             outline=False)  # fmt: skip
    pen.path("M-6,62 L8,62 L10,98 L1,88 L-8,98 Z", t.accent)


def key(pen: Pen) -> None:
    """An old key, drawn on the diagonal."""
    t = pen.tints
    metal = mix(t.main, "#e0b040", 0.3)
    for x, y in ((0, -62), (-24, -40), (24, -40)):
        pen.circle(x, y, 28, metal)
    pen.circle(0, -48, 26, metal, outline=False)
    pen.path("M-9,-24 L9,-24 L9,92 C9,98 -9,98 -9,92 Z", metal)
    teeth = "M9,50 L40,50 L40,62 L28,62 L28,72 L44,72 L44,88 L9,88 Z"
    pen.path(teeth, metal)
    pen.rect(-15, -20, (30, 11), lighter(metal, 0.25), corner=4)
    for x, y in ((0, -64), (-25, -40), (25, -40)):
        pen.circle(x, y, 12, darker(metal, 0.72))
    pen.gloss("M-5,-6 L0,-6 L0,88 L-5,88 Z")


def hat(pen: Pen) -> None:
    """A hat with a wide brim and a ribbon."""
    t = pen.tints
    dent = pen.around(-6, 10)
    pen.ellipse(0, 40, (98, 27), darker(t.main, 0.12))
    pen.ellipse(0, 35, (94, 22), t.main, outline=False)
    pen.path(f"M-56,36 C-56,-20 -54,-62 -30,-68 C-14,-72 -8,{-58 + dent:.0f} 0,{-58 + dent:.0f} "
             f"C8,{-58 + dent:.0f} 14,-72 30,-68 C54,-62 56,-20 56,36 C30,50 -30,50 -56,36 Z",
             t.main)  # fmt: skip
    pen.shade("M30,-68 C54,-62 56,-20 56,36 C44,42 32,45 20,46 C38,20 40,-36 30,-68 Z")
    pen.gloss("M-42,0 C-42,-30 -40,-48 -30,-56 C-32,-34 -32,-14 -32,2 Z")
    pen.path("M-56,10 C-30,24 30,24 56,10 L56,36 C30,50 -30,50 -56,36 Z", t.second)
    if pen.chance(0.6):
        pen.path("M44,20 C50,-20 66,-46 84,-58 C84,-30 70,4 50,30 Z", t.accent)


def shoe(pen: Pen) -> None:
    """A trainer seen from the side, toe to the right."""
    t = pen.tints
    pen.path("M-90,40 L-90,62 C-90,72 -84,74 -76,74 L80,74 C96,74 100,62 96,46 Z",
             mix(t.pale, "#ffffff", 0.4))  # fmt: skip
    pen.path("M-88,50 C-96,10 -86,-28 -82,-46 C-76,-56 -66,-40 -52,-40 C-36,-40 -30,-48 -22,-56 "
             "C-4,-36 16,-8 44,0 C72,6 96,20 96,50 Z", t.main)  # fmt: skip
    pen.path("M56,4 C80,10 96,24 96,50 L44,50 C42,34 46,16 56,4 Z", t.pale)
    pen.path("M-88,50 C-93,28 -91,8 -88,-14 C-70,-10 -58,10 -58,50 Z", t.second)
    pen.path("M-46,34 C-20,34 4,20 14,2 C26,14 4,44 -40,48 Z", t.accent, outline=False)
    for x, y in ((-16, -36), (-2, -22), (12, -9), (28, 1)):
        pen.stroke(f"M{x},{y} L{x - 17},{y + 14}", t.pale, 5)
    pen.stroke("M-88,58 L94,58", darker(t.main, 0.25), 4)
    pen.stroke("M-18,-40 C-10,-66 -32,-66 -20,-42 C-2,-62 8,-46 -14,-38", t.pale, 3.4)


def ice_cream(pen: Pen) -> None:
    """A cone with two or three scoops and a cherry."""
    t = pen.tints
    cone = "#d99a55"
    pen.path("M-36,16 L36,16 L0,98 Z", cone)
    for d in ("M-22,18 L10,74", "M4,18 L20,52", "M22,18 L-10,74", "M-4,18 L-20,52"):
        pen.stroke(d, darker(cone, 0.25), 2.6)
    if pen.chance(0.5):
        pen.circle(-21, -26, 28, t.second)
        pen.circle(21, -26, 28, t.accent)
        top = -52
    else:
        top = -36
    pen.circle(0, top, 31, t.main)
    pen.path("M-45,4 C-46,-20 46,-20 45,4 C46,22 30,24 26,12 C20,28 4,28 0,14 C-6,28 -20,26 "
             "-24,12 C-30,24 -46,20 -45,4 Z", t.second if top == -36 else t.pale)  # fmt: skip
    pen.gloss(f"M-20,{top} C-20,{top - 18} -6,{top - 24} 2,{top - 24} C-8,{top - 16} -12,"
              f"{top - 8} -12,{top + 4} Z")  # fmt: skip
    for _ in range(7):
        x, y = pen.around(-18, 20), top + pen.around(-16, 16)
        pen.stroke(f"M{x:.0f},{y:.0f} l{pen.around(-4, 4):.0f},5", t.pale, 2.8)
    pen.stroke(f"M2,{top - 38} C6,{top - 50} 14,{top - 54} 20,{top - 56}", "#4d7a3a", 3)
    pen.circle(0, top - 32, 10, "#d1344b")
