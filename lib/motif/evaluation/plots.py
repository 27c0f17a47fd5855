"""Figures of the report, as SVG that stands in the page: lines named where they end."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from motif.evaluation.adjective_truth import SUPPORTED_AUC, AdjectiveScore
from motif.evaluation.similarity import Similarity
from motif.evaluation.theme_over_object import ThemeScore

# Okabe and Ito's palette: told apart with any colour vision, and in grey by their lightness.
COLOURS = {
    "embedding": "#1f2933",
    "mean": "#6b7280",
    "whitened": "#0072b2",
    "same": "#d55e00",
}
NAMES = {"mean": "mean", "whitened": "whitened", "same": "SAME"}
INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
PAGE_FONT = "var(--sans)"


@contextmanager
def drawn(
    name: str, label: str, width: float, height: float
) -> Iterator[tuple[Figure, list[Markup]]]:
    """Yield a figure in inches, and a list that holds its SVG when the block ends."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # ids of two figures must not meet in one page
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#b8c1cc",
        "axes.labelcolor": INK,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "text.color": INK,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
    }
    done: list[Markup] = []
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, done
        file = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Laid out with the widest of common fonts, shown in the page's own.
    svg = re.sub(r"'DejaVu Sans'(, sans-serif)?", PAGE_FONT, svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    named = rf'\1 role="img" aria-label="{label}"'
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', named, svg, count=1)
    svg = re.sub(
        r'\bid="(figure|axes|text|patch|line2d|matplotlib|xtick|ytick)', rf'id="{name}-\1', svg
    )
    done.append(Markup(svg))


def hit_rate_by_images(similarity: Similarity, *, identical: bool) -> Markup:
    """Draw the hit rate at 1 against images a side, with standard errors.

    Args:
        similarity: What was measured.
        identical: SAME is the whitening here, and one line stands for both.
    """
    sizes = sorted({score.images_per_side for score in similarity.scores})
    with drawn("by-images", "hit rate at 1 by images a side", 5.6, 3.9) as (figure, done):
        axes = figure.subplots()
        ends: list[tuple[float, str, str, bool]] = []
        lines = _lines(identical)
        for order, (kind, csls) in enumerate(lines):
            rows = [similarity.find(kind, csls=csls, images_per_side=size) for size in sizes]
            found = [row for row in rows if row is not None]
            shift = 0.045 * (order - (len(lines) - 1) / 2)
            axes.errorbar(
                [sizes.index(row.images_per_side) + shift for row in found],
                [row.hit_rate["1"] for row in found],
                [row.standard_error for row in found],
                **_line_style(kind, csls=csls),
                elinewidth=1,
                capsize=2,
            )
            ends.append((found[-1].hit_rate["1"], _label(kind, identical), COLOURS[kind], csls))
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlim(-0.3, len(sizes) - 0.7 + _name_room(len(sizes), identical))
        percent_axis(axes)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("images on each side", loc="left")
        axes.set_title("Twin found at first place")
        _name_ends(axes, len(sizes) - 1 + 0.24, ends)
    return done[0]


def hit_rate_by_k(similarity: Similarity, size: int, *, identical: bool) -> Markup:
    """Draw the hit rate at K, at one number of images a side."""
    with drawn("by-k", "hit rate at K", 5.0, 3.9) as (figure, done):
        axes = figure.subplots()
        ends = []
        ks: list[str] = []
        for kind, csls in _lines(identical):
            row = similarity.find(kind, csls=csls, images_per_side=size)
            if row is None or not row.hit_rate:
                continue
            ks = list(row.hit_rate)
            rates = list(row.hit_rate.values())
            axes.plot(range(len(ks)), rates, **_line_style(kind, csls=csls))
            ends.append((rates[0], _label(kind, identical), COLOURS[kind], csls))
        axes.set_xticks(range(len(ks)), ks)
        axes.set_xlim(-0.15 - _name_room(len(ks), identical), len(ks) - 0.8)
        percent_axis(axes)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("places looked at (K)", loc="right")
        axes.set_title(f"Twin among the first K, {size} images a side")
        _name_ends(axes, -0.05 * len(ks), ends, align="right")
    return done[0]


def theme_over_object(scores: Mapping[str, ThemeScore], names: Mapping[str, str]) -> Markup:
    """Draw how often theme is nearer than object by each kind of vectors, with standard errors.

    Args:
        scores: Kind of vectors -> its score.
        names: Kind of vectors -> its name, for those to draw, from the top down.
    """
    kinds = list(names)[::-1]
    with drawn("theme", "how often theme is nearer than object", 6.4, 1.15 + 0.36 * len(kinds)) as (
        figure,
        done,
    ):
        axes = figure.subplots()
        axes.axvline(0.5, color=FAINT, linewidth=1, dashes=(2, 2))
        for height, kind in enumerate(kinds):
            score = scores[kind]
            axes.errorbar(
                score.rate,
                height,
                xerr=score.standard_error,
                color=COLOURS[kind],
                marker="o",
                markersize=8,
                capsize=3,
                elinewidth=1.4,
            )
            axes.annotate(
                f"{100 * score.rate:.1f} %",
                (score.rate, height),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                color=COLOURS[kind],
                weight="bold",
            )
        axes.set_yticks(range(len(kinds)), [names[kind] for kind in kinds])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.75, len(kinds) - 0.35)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        foot = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        for x, text, shift, align in (
            (0, "the object decides", 2, "left"),
            (0.5, "equal weight", 4, "left"),
            (1, "the theme decides", -2, "right"),
        ):
            axes.annotate(text, (x, 0), xytext=(shift, 4), ha=align, color=FAINT, **foot)
        axes.set_xlabel("how often the same creator is nearer than the same object", loc="left")
    return done[0]


def training_curve(curve: Sequence[Mapping[str, Any]], whitening_mrr: float | None) -> Markup:
    """Draw the validation MRR of each check and where the whitening stands; then the loss.

    Args:
        curve: Rows with `step` and `validation_mrr`. With `active_fraction`, the share of triplets
            that still break the margin, that and `loss` are drawn beneath: the loss is a mean over
            those triplets alone, and says little without their number.
        whitening_mrr: On the same creators, if known.
    """
    active = _series(curve, "active_fraction")
    height = 5.2 if active[0] else 2.9
    with drawn("training", "validation MRR by training step", 5.3, height) as (figure, done):
        if active[0]:
            top, *beneath = figure.subplots(3, sharex=True, height_ratios=(2.4, 1, 1))
            for axes, series, title in zip(
                beneath,
                (_series(curve, "loss"), active),
                ("Loss, of active triplets", "Share of triplets that are active"),
                strict=True,
            ):
                axes.plot(*series, color=INK, linewidth=1.3)
                axes.margins(y=0.15)
                axes.set_ylim(bottom=0)
                axes.grid(axis="x", visible=False)
                axes.set_title(title)
            beneath[-1].yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            beneath[-1].set_xlabel("step", loc="left")
        else:
            top = figure.subplots()
            top.set_xlabel("step", loc="left")
        _validation(top, curve, whitening_mrr)
    return done[0]


def _series(curve: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return the steps of the rows that have a value, and the values."""
    rows = [row for row in curve if row.get(key) is not None]
    return [row["step"] for row in rows], [row[key] for row in rows]


def _validation(
    axes: Axes, curve: Sequence[Mapping[str, Any]], whitening_mrr: float | None
) -> None:
    steps, scores = _series(curve, "validation_mrr")
    best = max(range(len(scores)), key=scores.__getitem__)
    axes.plot(steps, scores, color=COLOURS["same"], marker="o", markersize=3)
    axes.plot(steps[best], scores[best], "o", color=COLOURS["same"], markersize=8)
    axes.annotate(
        f"best: {scores[best]:.3f}",
        (steps[best], scores[best]),
        xytext=(0, 9),
        textcoords="offset points",
        ha="left" if best == 0 else "right" if best == len(steps) - 1 else "center",
        color=COLOURS["same"],
        weight="bold",
    )
    if whitening_mrr is not None:
        axes.axhline(whitening_mrr, color=COLOURS["whitened"], linewidth=1.2, dashes=(4, 3))
        axes.annotate(
            f"whitening {whitening_mrr:.3f}",
            (1, whitening_mrr),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            color=COLOURS["whitened"],
        )
    axes.margins(y=0.22)
    axes.grid(axis="x", visible=False)
    axes.set_title("Validation MRR in training")


def adjective_areas(scores: Sequence[AdjectiveScore]) -> Markup:
    """Draw each adjective's area under the ROC curve by OAAR and by the plain prompt."""
    ordered = sorted(scores, key=lambda score: score.auc_oaar)
    with drawn(
        "adjectives", "area under the ROC curve by adjective", 6.4, 1.25 + 0.34 * len(ordered)
    ) as (figure, done):
        axes = figure.subplots()
        axes.axvspan(SUPPORTED_AUC, 1, color="#d55e00", alpha=0.07, linewidth=0)
        axes.axvline(0.5, color=FAINT, linewidth=1, dashes=(2, 2))
        for height, score in enumerate(ordered):
            pair = (score.auc_plain, score.auc_oaar)
            axes.plot(pair, (height, height), color="#cbd2d9", linewidth=2.4, zorder=1)
            axes.plot(
                pair[0], height, "D", color="white", mec=COLOURS["mean"], mew=1.6, markersize=6
            )
            axes.plot(pair[1], height, "o", color=COLOURS["same"], markersize=8)
        if ordered:
            top = ordered[-1]
            right = top.auc_oaar >= top.auc_plain
            for value, text, colour, ahead in (
                (top.auc_oaar, "OAAR", COLOURS["same"], right),
                (top.auc_plain, "plain prompt", COLOURS["mean"], not right),
            ):
                axes.annotate(
                    text,
                    (value, len(ordered) - 1),
                    xytext=(4 if ahead else -4, 8),
                    textcoords="offset points",
                    ha="left" if ahead else "right",
                    color=colour,
                    weight="bold",
                )
        axes.set_yticks(range(len(ordered)), [score.adjective for score in ordered])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(ordered) - 0.1)
        axes.set_xlim(0, 1.02)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        foot = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("chance", (0.5, 0), xytext=(-4, 4), ha="right", color=FAINT, **foot)
        axes.annotate("supported", (1, 0), xytext=(-2, 4), ha="right", color="#a84a00", **foot)
        axes.set_xlabel("area under the ROC curve, over creators", loc="left")
    return done[0]


def _lines(identical: bool) -> list[tuple[str, bool]]:
    kinds = ("mean", "whitened") if identical else ("mean", "whitened", "same")
    return [(kind, csls) for kind in kinds for csls in (False, True)]


def _name_room(places: int, identical: bool) -> float:
    """Return how much of the x axis, in its own units, the names beside the lines need."""
    fraction = 0.44 if identical else 0.31
    return places * fraction / (1 - fraction)


def _label(kind: str, identical: bool) -> str:
    return "SAME = whitened" if identical and kind == "whitened" else NAMES[kind]


def _line_style(kind: str, *, csls: bool) -> dict[str, Any]:
    return {
        "color": COLOURS[kind],
        "marker": "o",
        "markersize": 5.5 if csls else 4.5,
        "markerfacecolor": COLOURS[kind] if csls else "white",
        "linestyle": "-" if csls else (0, (4, 2)),
        "linewidth": 1.9 if csls else 1.2,
    }


def percent_axis(axes: Axes) -> None:
    """Let an axis show fractions in [0, 1] as percent."""
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])


def _name_ends(
    axes: Axes,
    x: float,
    ends: Sequence[tuple[float, str, str, bool]],
    *,
    align: str = "left",
    gap: float = 0.062,
) -> None:
    """Write each line's name beside its end, pushed apart where ends are close."""
    ordered = sorted(ends)
    heights = spread_apart([value for value, *_ in ordered], gap, top=1.02)
    for (_, name, colour, csls), height in zip(ordered, heights, strict=True):
        axes.text(
            x,
            height,
            f"{name} + CSLS" if csls else name,
            color=colour,
            ha=align,
            va="center",
            weight="bold" if csls else "normal",
        )


def spread_apart(values: Sequence[float], gap: float, *, top: float) -> list[float]:
    """Return rising values moved as little as needed to be `gap` apart, none above `top`.

    Args:
        values: In rising order.
        gap: Least distance between neighbours.
        top: Greatest value allowed.
    """
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _start(groups[-1], gap, top) - _end(groups[-2], gap, top) < gap:
            last = groups.pop()
            groups[-1] += last
    return [_start(group, gap, top) + gap * i for group in groups for i in range(len(group))]


def _start(group: Sequence[float], gap: float, top: float) -> float:
    span = gap * (len(group) - 1)
    return min(sum(group) / len(group) - span / 2, top - span)


def _end(group: Sequence[float], gap: float, top: float) -> float:
    return _start(group, gap, top) + gap * (len(group) - 1)
