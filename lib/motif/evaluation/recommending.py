"""How well creators without history are found for brands: figures 3b and 3c of the paper."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

import motif
from motif.evaluation import pages, plots
from motif.recommend import bpr, cb2cf, cold_start, scorers
from motif.recommend.cold_start import DEPTHS, Holdout, Interval, Values
from motif.recommend.interactions import Interactions
from motif.recommend.scorers import SameForAll, Scorer

log = logging.getLogger(__name__)

CHANCE, POPULAR, MEAN_OF, KNN, CB2CF = "chance", "popular", "content mean", "KNN", "CB2CF"
HEADLINE, HEADLINE_DEPTH = "recall", 20
BASE = (MEAN_OF, "mean")
"""What others are compared with: cosine to the mean of a brand's creators' plain embeddings."""
TITLES = {"hit_rate": "hit rate", "recall": "recall", "ndcg": "NDCG"}
COLOURS = {"same": "#d55e00", "whitened": "#0072b2", "mean": "#6b7280", "": "#1f2933"}
DASHES: dict[str, Any] = {KNN: "-", CB2CF: (0, (5, 2)), MEAN_OF: (0, (1, 1.5))}


@dataclass(frozen=True)
class Ranked:
    """A method on a kind of content."""

    method: str
    content: str
    """Empty for one that looks at none."""
    values: Values

    @property
    def name(self) -> str:
        """For a person."""
        shown = {"same": "SAME", "mean": "embedding", "whitened": "whitened"}
        return f"{self.method}, {shown.get(self.content, self.content)}".removesuffix(", ")

    def at(self, measure: str, depth: int) -> Float[np.ndarray, " brands"]:
        """Return the values of all brands."""
        return self.values[measure][:, DEPTHS.index(depth)]


@dataclass(frozen=True)
class ColdStart:
    """All methods on the same hidden creators."""

    holdout: Holdout
    ranked: list[Ranked]

    def find(self, method: str, content: str) -> Ranked | None:
        """Return one of them."""
        wanted = (r for r in self.ranked if (r.method, r.content) == (method, content))
        return next(wanted, None)

    def best(self) -> Ranked:
        """Return the best by recall at 20."""
        return max(self.ranked, key=lambda one: one.at(HEADLINE, HEADLINE_DEPTH).mean())

    def against_base(self, one: Ranked) -> Interval | None:
        """Return the ratio of its recall at 20 to the plain content mean's, paired over brands."""
        base = self.find(*BASE)
        if base is None:
            return None
        mine, plain = (each.at(HEADLINE, HEADLINE_DEPTH) for each in (one, base))
        return cold_start.ratio(mine, plain)

    def verdict(self) -> str:
        """Return the result in a sentence."""
        best = self.best()
        told = cold_start.interval(best.at(HEADLINE, HEADLINE_DEPTH))
        text = (
            f"Of {len(self.holdout.cold):,} creators without history, {best.name} finds"
            f" {told.mean:.1%} [{told.low:.1%}, {told.high:.1%}] of a brand's within the first"
            f" {HEADLINE_DEPTH}"
        )
        ratio = self.against_base(best)
        if ratio is None or not np.isfinite(ratio.mean):
            return text
        return (
            f"{text}, {ratio.mean:.2f} times [{ratio.low:.2f}, {ratio.high:.2f}] what the plain"
            " content mean does"
        )


def measure(
    interactions: Interactions,
    contents: Mapping[str, Float[np.ndarray, "creators dim"]],
    holdout: Holdout,
    *,
    collaborative: bool = True,
    seed: int = 0,
) -> ColdStart:
    """Rank the hidden creators by each method on each content.

    Args:
        interactions: Whose creators are the rows of the contents.
        contents: Kind -> unit rows.
        holdout: Of the interactions.
        collaborative: Also CB2CF, which takes longer than all others.
        seed: Of chance, of the collaborative vectors and the network.
    """
    history = holdout.history
    known = np.unique(history.indices)
    first = next(iter(contents.values()))
    everybody = np.arange(len(first))
    jobs: list[tuple[str, str, Callable[[], Scorer]]] = [
        (CHANCE, "", lambda: cold_start.Chance(seed)),
        (POPULAR, "", lambda: SameForAll.of_array(scorers.popularity(first, history, everybody))),
    ]
    network = cb2cf.NetworkSettings(seed=seed)
    learned = None
    if collaborative:
        log.info("learning collaborative vectors")
        learned = bpr.fit(history, bpr.BprSettings(seed=seed))
    for kind, vectors in contents.items():
        jobs += [
            (MEAN_OF, kind, lambda v=vectors: scorers.mean_content(v, history)),
            (KNN, kind, lambda v=vectors: scorers.Nearest(v, history)),
        ]
        if learned is not None:
            jobs.append((CB2CF, kind, lambda v=vectors: cb2cf.predict(v, learned, known, network)))
    ranked = []
    for method, kind, scorer in jobs:
        one = Ranked(method, kind, cold_start.measure(scorer(), holdout))
        ranked.append(one)
        found = one.at(HEADLINE, HEADLINE_DEPTH).mean()
        log.info("%s: recall at %d %.4f", one.name, HEADLINE_DEPTH, found)
    return ColdStart(holdout, ranked)


def to_metrics(found: ColdStart, interactions: Interactions) -> dict[str, Any]:
    """Return what metrics.json says: each measure at each depth, with 95 % intervals."""
    return {
        "verdict": found.verdict(),
        "held_out": found.holdout.kind,
        "counts": {
            **asdict(interactions.counts),
            "hidden_creators": len(found.holdout.cold),
            "brands_ranked_for": len(found.holdout.brands),
        },
        "methods": [
            {
                "method": one.method,
                "content": one.content or None,
                **{
                    name: {str(k): asdict(cold_start.interval(one.at(name, k))) for k in DEPTHS}
                    for name in TITLES
                },
                "recall_at_20_over_content_mean": _told(found.against_base(one)),
            }
            for one in found.ranked
        ],
    }


def _told(ratio: Interval | None) -> dict[str, float] | None:
    return asdict(ratio) if ratio is not None and np.isfinite(ratio.mean) else None


def render(
    found: ColdStart,
    interactions: Interactions,
    *,
    table: str,
    run_id: str,
    created_at: datetime,
) -> str:
    """Return the page, with everything it shows in it."""
    ranked = sorted(found.ranked, key=lambda one: -one.at(HEADLINE, HEADLINE_DEPTH).mean())
    return (
        pages.environment()
        .get_template("recommending.html.j2")
        .render(
            found=found,
            counts=interactions.counts,
            ranked=ranked,
            best=found.best(),
            depths=(10, 20),
            titles=TITLES,
            interval=lambda one, name, k: cold_start.interval(one.at(name, k)),
            figures=[figure(found, name) for name in TITLES],
            table=table,
            run_id=run_id,
            date=created_at,
            motif_version=motif.__version__,
            neighbours=scorers.NEIGHBOURS,
        )
    )


def figure(found: ColdStart, measure: str) -> Markup:
    """Draw a measure by depth, with 95 % intervals; one line for each method and content."""
    title = TITLES[measure]
    with plots.drawn(f"by-depth-{measure}", f"{title} by depth", 5.4, 3.9) as (drawn, done):
        axes = drawn.subplots()
        ends = []
        for one in found.ranked:
            told = [cold_start.interval(one.at(measure, depth)) for depth in DEPTHS]
            colour = COLOURS.get(one.content, plots.INK)
            faint = one.method == CHANCE
            means = [each.mean for each in told]
            style = {"linestyle": DASHES.get(one.method, (0, (3, 1, 1, 1)))}
            axes.plot(DEPTHS, means, color=plots.FAINT if faint else colour, **style)
            if one.method == KNN:
                low, high = [each.low for each in told], [each.high for each in told]
                axes.fill_between(DEPTHS, low, high, color=colour, alpha=0.12, linewidth=0)
            ends.append((means[-1], one.name, plots.FAINT if faint else colour))
        top = max(value for value, *_ in ends)
        axes.set_xscale("log")
        axes.set_xlim(1, 100 * 10**0.95)
        axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axes.minorticks_off()
        axes.set_ylim(0, top * 1.12)
        ordered = sorted(ends)
        heights = plots.spread_apart([value for value, *_ in ordered], 0.066 * top, top=top * 1.08)
        for (_, name, colour), height in zip(ordered, heights, strict=True):
            axes.text(112, height, name, color=colour, va="center", fontsize=8)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("places looked at", loc="left")
        axes.set_title(title[0].upper() + title[1:])
    return done[0]
