"""Creators without history on real data: short videos and users, painters and styles."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from benchmarks.measurement import Measurement
from benchmarks.recommend_parts import clcrec
from motif import schemas
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.model import as_inputs, embed
from motif.recommend import bpr, cb2cf, cold_start, interactions, scorers
from motif.recommend.cold_start import Holdout
from motif.recommend.contents import unit, whitened
from motif.recommend.scorers import SameForAll, Scorer

DEPTH = 20
GOAL = 1.3
PEER_ON = "both"
STYLE_PICKS, NOISE, BRANDS_PER_STYLE = 5, 0.2, 40


def measure_tiktok(folder: Path, *, repeats: int) -> Iterator[Measurement]:
    """Users stand for brands, videos for creators; a fifth of the videos is hidden."""
    items = pq.read_table(folder / "items.parquet")
    rows = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id"])
    ids = [str(item) for item in items["item_id"].to_pylist()]
    found = interactions.joined(rows.rename_columns(["brand_id", "creator_id"]), ids)
    visual, acoustic = (schemas.matrix(items[name]) for name in ("image", "audio"))
    both = np.concatenate([unit(visual), unit(acoustic)], axis=1)
    contents = {"visual": visual, "acoustic": acoustic, "both": both}
    holdouts = [cold_start.by_creators(found, 0.2, seed) for seed in range(repeats)]
    results = {}
    for seed, holdout in enumerate(holdouts):
        for name, scorer in _methods(contents, holdout, seed):
            values = cold_start.measure(scorer(), holdout, (DEPTH,))
            results.setdefault(name, []).append(values)
    yield from _told("tiktok", results, base="content mean, plain {}", goal_on="both")


def _methods(
    contents: dict[str, np.ndarray], holdout: Holdout, seed: int
) -> Iterator[tuple[str, Callable[[], Scorer]]]:
    history = holdout.history
    known, everybody = np.unique(history.indices), np.arange(history.shape[1])
    learned = bpr.fit(history, bpr.BprSettings(seed=seed))
    network = cb2cf.NetworkSettings(seed=seed)
    yield "chance", lambda: cold_start.Chance(seed)
    for name, raw in contents.items():
        plain, white = unit(raw), whitened(raw)
        yield (
            f"popular, {name}",
            lambda w=white: SameForAll.of_array(scorers.popularity(w, history, everybody)),
        )
        for kind, rows in (("plain", plain), ("whitened", white)):
            yield f"content mean, {kind} {name}", lambda r=rows: scorers.mean_content(r, history)
            yield f"KNN, {kind} {name}", lambda r=rows: scorers.Nearest(r, history)
        yield f"CB2CF, whitened {name}", lambda w=white: cb2cf.predict(w, learned, known, network)
        if name == PEER_ON:
            yield f"CLCRec-like, whitened {name}", lambda w=white: clcrec.fit(w, holdout, seed)


def measure_wikiart(folder: Path, manifest: Path, *, repeats: int) -> Iterator[Measurement]:
    """Brands that like a style, with noise; half of the painters whom SAME never saw are cold."""
    styles = _styles(manifest)
    results: dict[str, list] = {}
    for fold in (0, 1):
        contents, ids = _painters(folder, fold)
        for seed in range(repeats):
            rows = _brands(ids, styles, seed)
            found = interactions.joined(rows, ids)
            holdout = cold_start.by_creators(found, 0.5, seed)
            for kind, vectors in contents.items():
                history = holdout.history
                pairs = {
                    f"content mean, {kind}": scorers.mean_content(vectors, history),
                    f"KNN, {kind}": scorers.Nearest(vectors, history),
                }
                for name, scorer in pairs.items():
                    values = cold_start.measure(scorer, holdout, (DEPTH,))
                    results.setdefault(name, []).append(values)
            chance = cold_start.measure(cold_start.Chance(seed), holdout, (DEPTH,))
            results.setdefault("chance", []).append(chance)
    yield from _told("wikiart", results, base="KNN, embedding", goal_on=None)


def _styles(manifest: Path) -> dict[str, str]:
    """Return the style that most of a painter's pictures are of."""
    rows = pyarrow.csv.read_csv(manifest)
    counts: dict[str, Counter] = {}
    for painter, style in zip(*(rows[c].to_pylist() for c in ("creator_id", "style")), strict=True):
        counts.setdefault(painter, Counter())[style] += 1
    return {painter: found.most_common(1)[0][0] for painter, found in counts.items()}


def _brands(ids: list[str], styles: dict[str, str], seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    pairs = []
    for style in sorted({styles[i] for i in ids}):
        fitting = [i for i in ids if styles[i] == style]
        for brand in range(BRANDS_PER_STYLE):
            for _ in range(2 * STYLE_PICKS):
                pool = ids if rng.random() < NOISE else fitting
                pairs.append((f"{style}-{brand}", pool[rng.integers(len(pool))]))
    brands, creators = zip(*sorted(set(pairs)), strict=True)
    return pa.table({"brand_id": brands, "creator_id": creators})


def _painters(folder: Path, fold: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return vectors of the painters whom the fold's model did not learn from."""
    opened = Embeddings.open(str(folder / "embeddings"))
    model = Checkpoint.open(str(folder / "features" / f"same-{fold}"))
    rows = opened.read(["creator_id", "embedding", "features"])
    ids = np.array(rows["creator_id"].to_pylist())
    tested = sorted(c for c in set(ids) if model.split_of(c) == "test")
    features = as_inputs(torch.from_numpy(schemas.matrix(rows["features"])))
    same = embed(model.model, features).numpy()
    embedding = schemas.matrix(rows["embedding"])

    def means(vectors: np.ndarray) -> np.ndarray:
        return np.stack([vectors[ids == c].mean(axis=0) for c in tested])

    contents = {
        "embedding": unit(means(embedding)),
        "embedding, whitened over painters": whitened(means(embedding)),
        "features": unit(means(features.numpy())),
        "SAME": unit(means(same)),
    }
    return contents, tested


def _told(
    part: str, results: dict[str, list], *, base: str, goal_on: str | None
) -> Iterator[Measurement]:
    """Yield one measurement for each method: recall at 20 over the base's."""
    for name, parts in results.items():
        content = name.rsplit(" ", 1)[-1]
        other = results.get(base.format(content), results.get(base, parts))
        recall, of_base = (
            np.concatenate([values["recall"][:, 0] for values in one]) for one in (parts, other)
        )
        ndcg = np.concatenate([values["ndcg"][:, 0] for values in parts])
        ratio = cold_start.ratio(recall, of_base)
        told = cold_start.interval(recall)
        is_goal = goal_on is not None and name == f"KNN, whitened {goal_on}"
        yield Measurement(
            part=part,
            name=f"{name}: recall at {DEPTH} / {base.format(content)}",
            value=ratio.mean,
            at_least=GOAL if is_goal else None,
            figures={
                "recall": [round(v, 4) for v in (told.mean, told.low, told.high)],
                "ndcg": round(float(ndcg.mean()), 4),
                "ratio": [round(v, 3) for v in (ratio.mean, ratio.low, ratio.high)],
                "by_seed": [round(float(v["recall"].mean()), 4) for v in parts],
                "brands": len(recall),
            },
        )
