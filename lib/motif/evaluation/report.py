"""report.html: one file that holds everything it shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import motif
from motif.evaluation import pages, plots, thumbnails
from motif.evaluation.adjective_truth import SUPPORTED_AUC
from motif.evaluation.evaluate import Result
from motif.evaluation.sheets import (
    AdjectiveSheet,
    QuerySheet,
    Tile,
    TripleSheet,
    adjective_sheets,
    query_sheets,
    triple_sheets,
)
from motif.evaluation.similarity import DRAWS
from motif.evaluation.verdict import FEWEST_CREATORS, NETWORKS, compare, judge, signed
from motif.metrics import CSLS_NEIGHBOURS

KINDS = ("mean", "whitened", "same")


@dataclass(frozen=True)
class Page:
    """The report, and how many of its images could be shown."""

    html: str
    shown: int
    missing: int


def render(result: Result, *, run_id: str, created_at: datetime) -> Page:
    """Draw the figures, fetch the thumbnails and fill in the page.

    Args:
        result: What was measured.
        run_id: Of this evaluation.
        created_at: Shown as the report's date.

    Returns:
        The page; an image that cannot be read is a grey placeholder in it.
    """
    sample = result.sample
    queries, triples = query_sheets(result), triple_sheets(result)
    by_adjective = adjective_sheets(result)
    images = thumbnails.make_thumbnails(
        (sample.uris[tile.image], sample.content_hashes[tile.image])
        for tile in _tiles(queries, triples, by_adjective)
    )
    environment = pages.environment()
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["signed"] = signed
    html = environment.get_template("report.html.j2").render(
        result=result,
        sample=sample,
        checkpoint=result.checkpoint,
        has_network=result.checkpoint.config.architecture in NETWORKS,
        embeddings=result.embeddings,
        run_id=run_id,
        date=created_at,
        motif_version=motif.__version__,
        draws=DRAWS,
        csls_neighbours=CSLS_NEIGHBOURS,
        supported_auc=SUPPORTED_AUC,
        names=plots.NAMES,
        queries=queries,
        triples=triples,
        known_adjectives={sheet.adjective: sheet for sheet in by_adjective if sheet.known},
        unknown_adjectives=[sheet for sheet in by_adjective if not sheet.known],
        thumbnail=lambda tile: images[sample.uris[tile.image]],
        uri=lambda tile: sample.uris[tile.image],
        **_headline(result),
        **_theme(result),
        **_figures(result),
    )
    missing = sum(bool(image.missing) for image in images.values())
    return Page(html, len(images) - missing, missing)


def _tiles(
    queries: list[QuerySheet], triples: list[TripleSheet], by_adjective: list[AdjectiveSheet]
) -> Iterator[Tile]:
    for sheet in queries:
        yield sheet.query
        yield from (*sheet.by_encoder, *sheet.by_same)
    for sheet in triples:
        yield from (sheet.anchor, sheet.of_creator, sheet.of_object)
    for sheet in by_adjective:
        yield from (*sheet.by_plain, *sheet.by_oaar)


def _headline(result: Result) -> dict[str, Any]:
    similarity = result.similarity
    verdict = judge(similarity, result.checkpoint.config.architecture)
    size = verdict.images_per_side
    scores = [similarity.find(kind, csls=True, images_per_side=size) for kind in KINDS]
    to_whitened = [
        (row, compare(row))
        for row in similarity.comparisons
        if row.csls and (row.vectors, row.baseline) == ("same", "whitened")
    ]
    return {
        "verdict": verdict,
        "headline": [score for score in scores if score is not None],
        "sizes": sorted({score.images_per_side for score in similarity.scores}),
        "to_whitened": to_whitened,
    }


def _theme(result: Result) -> dict[str, Any]:
    theme = result.theme_over_object
    scores = theme.scores if theme is not None else {}
    comparisons = theme.comparisons if theme is not None else []
    config = result.checkpoint.config
    # Kinds that are one and the same here share a row.
    names = {"embedding": "encoder", "mean": config.input_column, "whitened": "whitened"}
    if config.input_column == "embedding":
        del names["embedding"]
        names["mean"] = "encoder"
    names["same"] = "SAME"
    if config.architecture not in NETWORKS:
        del names["whitened"]
        names["same"] = "SAME = whitened" if config.architecture == "whitening" else "SAME = mean"
    return {
        "theme": theme,
        "theme_names": names,
        "theme_to": {
            row.baseline: (row, compare(row) if row.creators >= FEWEST_CREATORS else "unknown")
            for row in comparisons
            if row.vectors == "same"
        },
        "theme_figure": plots.theme_over_object(scores, names) if scores else None,
    }


def _figures(result: Result) -> dict[str, Any]:
    metrics = result.checkpoint.metrics
    identical = result.checkpoint.config.architecture == "whitening"
    size = judge(result.similarity, result.checkpoint.config.architecture).images_per_side
    curve = metrics.get("curve") or []
    whitening = (metrics.get("validation") or {}).get("mrr_whitening")
    return {
        "by_images": plots.hit_rate_by_images(result.similarity, identical=identical),
        "by_k": plots.hit_rate_by_k(result.similarity, size, identical=identical),
        "training": plots.training_curve(curve, whitening) if len(curve) > 1 else None,
        "areas": plots.adjective_areas(result.adjectives) if result.adjectives else None,
    }
