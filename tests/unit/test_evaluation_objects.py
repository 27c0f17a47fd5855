"""evaluate where the manifest knows what each image shows: theme over object."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from motif.evaluation import evaluate as evaluation
from motif.evaluation import report
from tests.evaluation_inputs import (
    Page,
    encode_texts,
    no_encoder,
    rows_of,
    run_job,
    with_objects,
    write_checkpoint,
    write_embeddings,
)

__all__ = ["no_encoder"]


def test_theme_over_object_is_measured_where_the_manifest_knows_objects(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", with_objects(rows_of(40, 6)), objects=pa.string())
    checkpoint = write_checkpoint(tmp_path / "same")
    record, metrics, page = run_job(tmp_path)
    tested = sum(checkpoint.split_of(f"creator-{i:03d}") == "test" for i in range(40))
    scores = metrics["theme_over_object"]
    assert list(scores) == ["embedding", "mean", "whitened", "same"]
    assert scores["embedding"] == scores["mean"]  # which is what the model reads
    assert scores["mean"]["rate"] > 0.8  # nothing of the made-up objects is in the vectors
    for score in scores.values():
        assert list(score) == ["rate", "standard_error", "triples", "creators"]
        assert score["creators"] == tested
        assert 20_000 - tested < score["triples"] <= 20_000
        assert score["standard_error"] > 0
    compared = {
        row["baseline"]: row
        for row in metrics["theme_over_object_comparisons"]
        if row["vectors"] == "same"
    }
    assert list(compared) == ["embedding", "mean", "whitened"]
    for baseline, row in compared.items():
        difference = scores["same"]["rate"] - scores[baseline]["rate"]
        assert row["difference"] == pytest.approx(difference)
        assert row["creators"] == tested
    assert record["counts"]["images_without_object"] == 0
    text = Page(page).text
    same, encoder = (f"{100 * scores[kind]['rate']:.1f}" for kind in ("same", "embedding"))
    sentence = f"SAME puts the creator before the object in {same} % of the cases, the encoder in"
    assert f"{sentence} {encoder} %." in text
    error = f"{100 * scores['embedding']['standard_error']:.1f}"
    assert text.count(f"{encoder} ± {error}") == 1  # one row, as what the model reads is it
    assert f"encoder {encoder} ± {error}" in text
    assert "6 of these triples, at random" in text
    assert text.count("nearer: encoder") == text.count("nearer: SAME") == 6
    row = compared["whitened"]
    assert f"{abs(100 * row['difference']):.1f} ± {100 * row['standard_error']:.1f}" in text


def test_triples_are_of_the_evaluated_creators_and_the_sheet_says_which_is_nearer(tmp_path):
    from motif.evaluation import sheets

    rows = with_objects(rows_of(40, 6))
    checkpoint = write_checkpoint(tmp_path / "same")
    tested = [i for i in range(40) if checkpoint.split_of(f"creator-{i:03d}") == "test"]
    original, reposter = (slice(6 * i, 6 * i + 6) for i in tested[:2])
    for first, second in zip(rows[original], rows[reposter], strict=True):
        second |= {name: first[name] for name in ("perceptual_hash", "object")}
    embeddings = write_embeddings(tmp_path / "emb", rows, objects=pa.string())
    # With texts all creators are read, for adjectives; those of the test are still these.
    result = evaluation.evaluate(embeddings, checkpoint, encode_texts=encode_texts)
    sample, theme = result.sample, result.theme_over_object
    assert theme is not None
    assert theme.triples.shape[0] == len(tested) < len(sample.creator_ids)
    by_uri = {row["uri"]: row for row in rows}

    def row_of(image):
        return by_uri[sample.uris[np.flatnonzero(sample.evaluated_rows)[image]]]

    for triple in theme.triples[:, :40].reshape(-1, 3).tolist():
        anchor, of_creator, of_object = map(row_of, triple)
        assert of_creator["creator_id"] == anchor["creator_id"] != of_object["creator_id"]
        assert of_creator["object"] != anchor["object"] == of_object["object"]
        assert of_object["perceptual_hash"] != anchor["perceptual_hash"]
        assert checkpoint.split_of(of_object["creator_id"]) == "test"
    found = sheets.triple_sheets(result)
    assert len({sheet.anchor.creator_id for sheet in found}) == len(found) == sheets.TRIPLES
    for sheet in found:
        tiles = (sheet.anchor, sheet.of_creator, sheet.of_object)
        shown = [by_uri[sample.uris[tile.image]] for tile in tiles]
        assert [tile.creator_id for tile in tiles] == [row["creator_id"] for row in shown]
        assert list(sheet.objects) == [row["object"] for row in shown]
        anchor, *others = (np.array(row["embedding"]) for row in shown)
        assert sheet.by_encoder == pytest.approx([anchor @ other for other in others], abs=1e-6)
        place = [int(np.cumsum(sample.evaluated_rows)[tile.image]) - 1 for tile in tiles]
        anchor, *others = result.same[place]
        assert sheet.by_same == pytest.approx([anchor @ other for other in others], abs=1e-6)
    page = Page(report.render(result, run_id="r", created_at=datetime.now(UTC)).html)
    for sheet in found:
        words = ["another creator"]
        for place, tile in enumerate((sheet.anchor, sheet.of_creator, sheet.of_object)):
            words += ["not available (not_found)", tile.creator_id, sheet.objects[place]]
            for name, cosines in (("encoder", sheet.by_encoder), ("SAME", sheet.by_same)):
                if place and cosines[place - 1] == max(cosines):
                    words.append(f"nearer: {name}")
        assert " ".join(words) in page.text


def test_objects_are_text_or_whole_numbers_and_blank_is_unknown(tmp_path):
    model = write_checkpoint(tmp_path / "same")

    def measured(name, kind, objects):
        rows = with_objects(rows_of(40, 6), objects)
        embeddings = write_embeddings(tmp_path / name, rows, objects=kind)
        result = evaluation.evaluate(embeddings, model)
        assert result.theme_over_object is not None
        return result.theme_over_object, evaluation.to_metrics(result)

    text, _ = measured("text", pa.string(), ("cat", "dog", "cup", None))
    numbers, metrics = measured("numbers", pa.int64(), (7, -3, 7_000_000_000, None))
    blank, _ = measured("blank", pa.large_string(), ("cat", " dog", "cup ", " "))
    assert text.scores == numbers.scores == blank.scores != {}
    unknown = metrics["counts"]["images_without_object"]
    images = metrics["counts"]["evaluated_images"]
    assert images / 5 < unknown < images / 3
    note = f"{unknown} of {images} images have no `object`"
    assert any(note in found for found in metrics["notes"])


@pytest.mark.parametrize(
    ("kind", "objects"), [(pa.string(), ("cat",)), (pa.float64(), (1.0, 2.0))], ids=str
)
def test_objects_that_make_no_triple_are_a_note_in_place_of_a_figure(
    tmp_path, no_encoder, kind, objects
):
    write_embeddings(tmp_path / "emb", with_objects(rows_of(40, 4), objects), objects=kind)
    checkpoint = write_checkpoint(tmp_path / "same")
    _, metrics, page = run_job(tmp_path)
    tested = sum(checkpoint.split_of(f"creator-{i:03d}") == "test" for i in range(40))
    assert metrics["theme_over_object"] == {}
    note = metrics["notes"][-1]
    assert note.startswith(f"Theme over object is left out: 0 of {tested} creators")
    text = Page(page).text
    assert text.count(note) == 1
    assert "of these triples" not in text


def test_without_objects_nothing_is_said_of_them(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", rows_of(40, 4))
    write_checkpoint(tmp_path / "same")
    record, metrics, page = run_job(tmp_path)
    assert metrics["theme_over_object"] is None
    assert metrics["theme_over_object_comparisons"] is None
    assert "images_without_object" not in record["counts"]
    assert "heme over object" not in page + json.dumps(metrics["notes"])
