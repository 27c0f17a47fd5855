"""Two spaces side by side: on the same creators and images, and what the page says of them."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from motif import adjectives
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError
from motif.evaluation import comparison
from motif.evaluation.comparison import Side
from motif.model import WhitenedEmbedding
from motif.whitening import Whitening
from tests.synthetic import make_space, rows_of, themed, unit, write_checkpoint, write_embeddings

DIM = 12
CREATORS, IMAGES = 40, 6


def side(folder, name: str, rows, *, kept: int = DIM, texts: int | None = None, **config) -> Side:
    space = make_space(DIM, encoder=name)
    identity = Whitening(torch.zeros(DIM), torch.eye(DIM)[:, :kept])
    model = write_checkpoint(
        folder / name / "same", space, WhitenedEmbedding(identity), test_fraction=0.5, **config
    )
    write_embeddings(folder / name / "embeddings", rows, space, encoder=name)

    def encode(prompts):
        generator = np.random.default_rng(texts)
        known = {
            word: generator.normal(size=DIM) for word in sorted(set(" ".join(prompts).split()))
        }
        return unit(np.stack([sum(known[w] for w in p.split()) for p in prompts]))

    return Side(
        Embeddings.open(str(folder / name / "embeddings")),
        Checkpoint.open(model),
        encode if texts is not None else None,
    )


@pytest.fixture(scope="module")
def rows():
    return rows_of(*themed(CREATORS, IMAGES, DIM, spread=0.7))


def test_a_space_against_itself_changes_nothing(tmp_path, rows):
    old, new = side(tmp_path, "old", rows, texts=1), side(tmp_path, "new", rows, texts=1)
    switch = comparison.compare(old, new, max_creators=100)
    assert switch.overlap == 1
    row = switch.headline()
    assert (row.difference, row.standard_error) == (0, 0)
    assert "no different at finding a creator again" in switch.verdict()
    assert switch.images == switch.creators * IMAGES
    assert set(switch.adjectives) == set(adjectives.default_adjectives())
    assert min(switch.adjectives.values()) == pytest.approx(1)
    for sheet in switch.sheets:
        assert sheet.old == sheet.new
        assert sheet.creator_id not in sheet.old


def test_a_blind_space_is_worse_and_said_to_be(tmp_path, rows):
    old, new = side(tmp_path, "old", rows), side(tmp_path, "new", rows, kept=1)
    switch = comparison.compare(old, new, max_creators=100)
    row = switch.headline()
    assert row.difference < -0.3
    assert "The new space is worse at finding a creator again" in switch.verdict()
    assert switch.overlap < 0.9
    assert switch.adjectives == {}
    back = comparison.compare(new, old, max_creators=100)
    assert back.headline().difference == pytest.approx(-row.difference)
    assert "is better" in back.verdict()


def test_overlap_and_neighbours_by_their_definition(tmp_path, rows):
    old, new = side(tmp_path, "old", rows), side(tmp_path, "new", rows, kept=4)
    switch = comparison.compare(old, new, max_creators=100)
    vectors = {}
    for name, one in (("old", old), ("new", new)):
        table = one.embeddings.read(["creator_id", "embedding"]).to_pylist()
        for creator in {row["creator_id"] for row in table}:
            if one.checkpoint.split_of(creator) == "test":
                own = np.array([r["embedding"] for r in table if r["creator_id"] == creator])
                kept = unit(own[:, : 4 if name == "new" else DIM])
                vectors.setdefault(name, {})[creator] = unit(kept.sum(axis=0))
    assert switch.creators == len(vectors["old"])
    nearest = {
        name: {
            a: sorted((b for b in found if b != a), key=lambda b: -float(found[a] @ found[b]))
            for a in found
        }
        for name, found in vectors.items()
    }
    shared = [
        len(set(nearest["old"][a][:10]) & set(nearest["new"][a][:10])) / 10 for a in vectors["old"]
    ]
    assert switch.overlap == pytest.approx(np.mean(shared))
    for sheet in switch.sheets:
        assert sheet.old == nearest["old"][sheet.creator_id][:5]
        assert sheet.new == nearest["new"][sheet.creator_id][:5]


def test_adjectives_are_compared_by_rank(tmp_path, rows):
    old, new = side(tmp_path, "old", rows, texts=1), side(tmp_path, "new", rows, texts=2)
    switch = comparison.compare(old, new, max_creators=100)
    word = adjectives.default_adjectives()[0]
    scores = []
    for one in (old, new):
        direction = adjectives.directions([word], one.encode_texts)[0]
        table = one.embeddings.read(["creator_id", "embedding"]).to_pylist()
        creators = sorted(
            {r["creator_id"] for r in table if one.checkpoint.split_of(r["creator_id"]) == "test"}
        )
        scores.append(
            [
                np.mean([np.dot(r["embedding"], direction) for r in table if r["creator_id"] == c])
                for c in creators
            ]
        )
    assert switch.adjectives[word] == pytest.approx(spearmanr(*scores)[0], abs=1e-6)


def test_only_images_that_both_have_are_compared(tmp_path, rows):
    fewer = rows.filter([i % IMAGES < 4 for i in range(rows.num_rows)])
    old, new = side(tmp_path, "old", rows), side(tmp_path, "new", fewer)
    switch = comparison.compare(old, new, max_creators=100)
    assert switch.images == switch.creators * 4


def test_what_cannot_be_compared_is_refused(tmp_path, rows):
    others = rows_of(*themed(CREATORS, IMAGES, DIM, seed=1))
    names = [f"another-{name}" for name in others["creator_id"].to_pylist()]
    others = others.set_column(1, others.schema.field("creator_id"), [names])
    old, new = side(tmp_path, "old", rows), side(tmp_path, "new", others)
    with pytest.raises(InputError, match="0 creators are held out by both models"):
        comparison.compare(old, new, max_creators=100)


def test_the_page_holds_everything_and_runs_nothing(tmp_path, rows):
    nasty = "<script>alert(1)</script>"
    names = [nasty if name == "creator-003" else name for name in rows["creator_id"].to_pylist()]
    rows = rows.set_column(1, rows.schema.field("creator_id"), [names])
    rows = rows.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])
    old, new = side(tmp_path, "old", rows, texts=1), side(tmp_path, "new", rows, kept=3, texts=2)
    switch = comparison.compare(old, new, max_creators=100)
    page = comparison.render(switch, old, new, run_id="r", created_at=datetime.now(UTC))
    assert switch.verdict().replace("'", "&#39;") in page
    assert "<svg" in page
    assert nasty not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    for word in adjectives.default_adjectives():
        assert f">{word}<" in page
    assert old.checkpoint.fingerprint in page
