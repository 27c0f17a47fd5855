"""jobs.evaluate on EMBEDDINGS and checkpoints written by hand: what it writes, refuses, escapes."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import evaluate as job
from motif import adjectives
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError, OutputError, SpaceError
from motif.evaluation import evaluate as evaluation
from tests.evaluation_inputs import (
    DIM,
    NASTY,
    SPACE,
    Page,
    encode_texts,
    no_encoder,
    rows_of,
    run_job,
    tiny_encoder,
    with_objects,
    write_checkpoint,
    write_embeddings,
)

__all__ = ["no_encoder", "tiny_encoder"]


def test_metrics_json_keeps_its_contract(tmp_path, tiny_encoder):
    write_embeddings(tmp_path / "emb", rows_of(60, 12))
    checkpoint = write_checkpoint(tmp_path / "same")
    record, metrics, page = run_job(tmp_path)
    tested = sum(checkpoint.split_of(f"creator-{i:03d}") == "test" for i in range(60))
    assert 20 < tested < 40
    rows = metrics["creator_similarity"]
    # 12 images fill 1, 3 and 5 a side, not 10.
    assert [(r["vectors"], r["csls"], r["images_per_side"]) for r in rows] == [
        (vectors, csls, size)
        for size in (1, 3, 5)
        for vectors in ("mean", "whitened", "same")
        for csls in (False, True)
    ]
    for row in rows:
        assert list(row["hit_rate"]) == ["1", "5", "10"]
        assert 0 <= row["hit_rate"]["1"] <= row["hit_rate"]["5"] <= row["hit_rate"]["10"] <= 1
        assert row["hit_rate"]["1"] <= row["mrr"] <= 1
        assert row["standard_error"] > 0
        assert row["creators"] == tested
        assert row["draws"] == 10
    by_adjective = {row["adjective"]: row for row in metrics["adjectives"]}
    assert set(by_adjective) == {"vivid", "dark"}  # is_2d is no adjective
    vivid, dark = by_adjective["vivid"], by_adjective["dark"]
    assert (vivid["creators_true"], vivid["creators"], vivid["supported"]) == (20, 60, True)
    assert vivid["auc_oaar"] > 0.95
    assert (dark["creators_true"], dark["supported"]) == (40, False)
    assert dark["auc_oaar"] < 0.05
    assert metrics["adjectives_note"] is None
    assert any("10 images a side is left out" in note for note in metrics["notes"])
    assert record == json.loads((tmp_path / "evaluation" / "run.json").read_text())
    assert record["artefact"] == "evaluation"
    assert record["counts"]["evaluated_creators"] == tested
    assert record["space"]["fingerprint"] == checkpoint.fingerprint
    text = Page(page).text
    assert "“A vivid photo”" in text
    assert "“A dark photo”" not in text  # no ranking of what is not supported
    assert "not supported by this encoder" in text
    assert text.count("no ground truth") == evaluation.WITHOUT_TRUTH
    assert f"{checkpoint.fingerprint}" in text
    assert f"{len(rows_of(60, 12))} embedded, 0 failed" in text


def test_the_numbers_are_those_of_the_rows_whatever_the_buckets(tmp_path):
    rows = rows_of(40, 8)
    model = write_checkpoint(tmp_path / "same")
    one = write_embeddings(tmp_path / "one", rows, buckets=1)
    four = write_embeddings(tmp_path / "four", rows[::-1], buckets=4)
    first = evaluation.evaluate(one, model, seed=3)
    assert first.similarity == evaluation.evaluate(four, model, seed=3).similarity
    assert first.similarity != evaluation.evaluate(one, model, seed=4).similarity
    assert first.adjectives == []
    assert first.adjectives_note == "no text encoder was given"


def test_mean_whitened_and_same_are_those_of_the_checkpoint(tmp_path):
    embeddings = write_embeddings(tmp_path / "emb", rows_of(40, 4))
    model = write_checkpoint(tmp_path / "same")
    result = evaluation.evaluate(embeddings, model)
    rows = [r for r in rows_of(40, 4) if model.split_of(r["creator_id"]) == "test"]
    inputs = torch.tensor([r["embedding"] for r in rows])
    with torch.inference_mode():
        expected = model.model(inputs).numpy()
    assert np.allclose(result.same, expected, atol=1e-6)
    rows_at_one = [s for s in result.similarity.scores if s.images_per_side == 1 and s.csls]
    assert len({score.mrr for score in rows_at_one}) == 3  # of three kinds of vectors


def test_a_whitening_is_called_one(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", rows_of(40, 4))
    write_checkpoint(tmp_path / "same", architecture="whitening")
    _, metrics, page = run_job(tmp_path)
    rows = {
        (r["vectors"], r["csls"], r["images_per_side"]): r for r in metrics["creator_similarity"]
    }
    for (vectors, csls, size), row in rows.items():
        if vectors == "same":
            assert row == {**rows["whitened", csls, size], "vectors": "same"}
    assert "is the whitening itself" in metrics["verdict"]
    assert "SAME equals the whitening here." in Page(page).text
    assert "SAME less whitened" not in page


def test_without_an_encoder_adjectives_are_left_out_and_the_reason_is_told(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", rows_of(40, 4))
    write_checkpoint(tmp_path / "same")
    _, metrics, page = run_job(tmp_path)
    assert metrics["adjectives"] == []
    assert metrics["adjectives_note"] == "the hub is away"
    assert "Left out. the hub is away" in Page(page).text


def test_an_encoder_that_cannot_be_loaded_or_is_another_one_is_not_used(tmp_path, monkeypatch):
    embeddings = write_embeddings(tmp_path / "emb", rows_of(3, 2), encoder="NoSuchModel/none")
    texts, note = evaluation.open_text_encoder(embeddings)
    assert texts is None
    assert "NoSuchModel" in note

    class OtherEncoder:
        space = dataclasses.replace(SPACE, weights_sha256="1" * 64)

    monkeypatch.setattr(evaluation, "resolve", lambda name: name)
    monkeypatch.setattr(evaluation, "Encoder", lambda source: OtherEncoder())
    texts, note = evaluation.open_text_encoder(embeddings)
    assert texts is None
    assert SPACE.fingerprint in note
    assert OtherEncoder.space.fingerprint in note


def test_a_model_of_another_space_is_refused_before_anything_is_written(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", rows_of(6, 4))
    other = dataclasses.replace(SPACE, weights_sha256="1" * 64)
    write_checkpoint(tmp_path / "same", space=other)
    for dry_run in (False, True):
        with pytest.raises(SpaceError, match=other.fingerprint):
            run_job(tmp_path, dry_run=dry_run)
    assert not (tmp_path / "evaluation").exists()


def test_too_few_test_creators_are_refused_with_what_to_do(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", rows_of(6, 4))
    write_checkpoint(tmp_path / "same", test_fraction=0.0)
    with pytest.raises(InputError, match=r"0 of 6 .*larger --test-fraction.*--creators all"):
        run_job(tmp_path)
    _, metrics, page = run_job(tmp_path, creators="all")
    assert {row["creators"] for row in metrics["creator_similarity"]} == {6}
    assert any("All creators are compared" in note for note in metrics["notes"])
    assert "never saw" not in page


def test_creators_with_one_image_or_one_file_twice_sit_out(tmp_path):
    rows = rows_of(6, 4)
    rows = [r for r in rows if r["creator_id"] != "creator-001" or r["image_id"] == "001-00"]
    for row in rows:
        if row["creator_id"] == "creator-002":
            row["content_hash"] = "c" * 32
    embeddings = write_embeddings(tmp_path / "emb", rows)
    result = evaluation.evaluate(embeddings, write_checkpoint(tmp_path / "same"), creators="all")
    score = result.similarity.find("mean", csls=False, images_per_side=1)
    assert score is not None
    assert score.creators == 4
    assert result.sample.duplicates == 3
    assert any("3 images are left out" in note for note in result.notes)


def test_copies_that_were_saved_again_are_left_out_like_copies_of_the_file(tmp_path):
    rows = rows_of(6, 4)
    by_name = {row["image_id"]: row for row in rows}
    # Creator 2 has one picture as two files of equal perceptual hash, and the second file twice;
    # creator 3 has it, too.
    for name in ("002-02", "003-00"):
        by_name[name]["perceptual_hash"] = by_name["002-01"]["perceptual_hash"]
    by_name["002-03"]["content_hash"] = by_name["002-02"]["content_hash"]
    embeddings = write_embeddings(tmp_path / "emb", rows)
    result = evaluation.evaluate(embeddings, write_checkpoint(tmp_path / "same"), creators="all")
    sample = result.sample
    assert np.diff(sample.offsets).tolist() == [4, 4, 2, 4, 4, 4]
    assert sample.duplicates == 2
    names = [uri.removeprefix("/nowhere/") for uri in sample.uris[8:13]]
    assert names == ["002-00.jpg", "002-01.jpg", "003-00.jpg", "003-01.jpg", "003-02.jpg"]
    assert len(set(sample.pictures.tolist())) == len(sample.uris) - 1  # the repost stays
    assert any(
        "2 images are left out because their creator has the same picture" in note
        for note in result.notes
    )


def test_no_two_creators_with_two_images_is_refused(tmp_path):
    model = write_checkpoint(tmp_path / "same")
    single = write_embeddings(tmp_path / "emb", rows_of(6, 1))
    with pytest.raises(InputError, match="0 of 6 creators have two images"):
        evaluation.evaluate(single, model, creators="all")
    rows = [{**row, "content_hash": "c" * 32} for row in rows_of(6, 3)]
    copies = write_embeddings(tmp_path / "copies", rows)
    with pytest.raises(InputError, match="two different images"):
        evaluation.evaluate(copies, model, creators="all")


def test_creators_beyond_the_cap_are_left_out_by_hash_and_it_is_said(tmp_path):
    embeddings = write_embeddings(tmp_path / "emb", rows_of(30, 4))
    model = write_checkpoint(tmp_path / "same")
    results = [
        evaluation.evaluate(
            embeddings, model, creators="all", max_creators=12, seed=seed, encode_texts=encode_texts
        )
        for seed in (0, 1)
    ]
    first, second = results
    assert {s.creators for s in first.similarity.scores} == {12}
    assert any("12 of 30 creators" in note for note in first.notes)
    assert first.sample.creator_ids == second.sample.creator_ids
    backwards = write_embeddings(tmp_path / "backwards", rows_of(30, 4)[::-1], buckets=5)
    third = evaluation.evaluate(backwards, model, creators="all", max_creators=12)
    assert third.choice.evaluated == first.choice.evaluated
    with pytest.raises(InputError, match="--max-creators 1"):
        evaluation.evaluate(embeddings, model, max_creators=1)


def test_images_beyond_the_cap_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("motif.evaluation.sample.MAX_IMAGES_PER_CREATOR", 3)
    embeddings = write_embeddings(tmp_path / "emb", rows_of(4, 5))
    model = write_checkpoint(tmp_path / "same")
    sample = evaluation.evaluate(embeddings, model, creators="all").sample
    assert np.diff(sample.offsets).tolist() == [3, 3, 3, 3]
    assert sample.capped == 4


def test_a_missing_column_and_a_broken_vector_are_refused(tmp_path):
    embeddings = write_embeddings(tmp_path / "emb", rows_of(6, 4))
    model = write_checkpoint(tmp_path / "features", input_column="features")
    with pytest.raises(InputError, match="no column 'features'"):
        evaluation.evaluate(embeddings, model, creators="all")
    rows = rows_of(6, 4)
    rows[5]["embedding"] = [float("nan")] * DIM
    broken = write_embeddings(tmp_path / "broken", rows)
    model = write_checkpoint(tmp_path / "same")
    with pytest.raises(InputError, match="'001-01'"):
        evaluation.evaluate(broken, model, creators="all")


def test_a_finished_evaluation_is_replaced_only_on_demand(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", rows_of(20, 4))
    write_checkpoint(tmp_path / "same")
    first, _, _ = run_job(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        run_job(tmp_path)
    second, _, _ = run_job(tmp_path, overwrite=True)
    assert first["run_id"] != second["run_id"]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    write_embeddings(tmp_path / "emb", rows_of(20, 4))
    write_checkpoint(tmp_path / "same")
    output = tmp_path / "evaluation"
    config = job.Config(
        embeddings=str(tmp_path / "emb"),
        model=str(tmp_path / "same"),
        output=str(output),
        dry_run=True,
    )
    plan = job.main(config)
    assert plan["creators_in_embeddings"] == 20
    assert plan["adjectives_with_truth"] == "vivid, dark"
    assert plan["theme_over_object"] is False
    assert "creators compared" in capsys.readouterr().out
    assert not output.exists()


def test_whatever_users_write_is_text_and_nothing_is_loaded_from_elsewhere(tmp_path, tiny_encoder):
    rows = with_objects(rows_of(12, 4), (NASTY, f"cup {NASTY}"))
    for row in rows:
        row["creator_id"] = row["creator_id"] + NASTY
        row["uri"] = f"/nowhere/{NASTY}/{row['image_id']}.jpg"
    write_embeddings(tmp_path / "emb", rows, objects=pa.string())
    write_checkpoint(tmp_path / "same")
    _, _, text = run_job(tmp_path, creators="all")
    page = Page(text)
    for text_of_theirs in ("creator-000", "cup "):
        assert f"{text_of_theirs}\"><script>alert(1)</script> &amp;'{{{{ 7*7 }}}}" in page.text
    allowed = {"src", "href", "xlink:href"}
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "link"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in allowed & set(attributes):
            assert (attributes[name] or "").startswith(("data:image/", "#")), (tag, name)
    assert "url(h" not in text
    assert "@import" not in text
    assert "<b>reason" not in text  # of the checkpoint's metrics


def test_images_that_cannot_be_shown_become_placeholders(
    tmp_path: Path, picture: Callable, no_encoder: None
):
    rows = rows_of(4, 3)
    for index, row in enumerate(rows):
        path = tmp_path / f"{row['image_id']}.jpg"
        picture(index, width=400, height=200).save(path, quality=90)
        row["uri"] = str(path)
        row["content_hash"] = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    (tmp_path / "000-00.jpg").unlink()
    (tmp_path / "001-00.jpg").write_bytes(b"no image at all")
    picture(99).save(tmp_path / "002-00.jpg")
    for creator in (0, 1, 2):  # so that the spoilt ones are shown as the only other image
        rows = [r for r in rows if r["image_id"] != f"{creator:03d}-02"]
    write_embeddings(tmp_path / "emb", rows)
    write_checkpoint(tmp_path / "same")
    record, _, text = run_job(tmp_path, creators="all")
    page = Page(text)
    assert record["counts"]["images_missing"] == 3
    for reason in ("not_found", "not_an_image", "changed since it was encoded"):
        assert f"({reason})" in page.text
    sources = [a["src"] or "" for tag, a in page.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert max(map(len, sources)) < 20_000


def test_no_query_meets_itself_and_its_own_creator_is_marked(tmp_path):
    from motif.evaluation import sheets

    rows = rows_of(10, 4)
    for first, second in zip(rows[:4], rows[36:], strict=True):  # creator 9 reposts creator 0
        second |= {name: first[name] for name in ("perceptual_hash", "embedding")}
    embeddings = write_embeddings(tmp_path / "emb", rows)
    result = evaluation.evaluate(embeddings, write_checkpoint(tmp_path / "same"), creators="all")
    pictures = result.sample.pictures
    assert len(set(pictures.tolist())) == len(pictures) - 4
    found = sheets.query_sheets(result)
    assert len({sheet.query.creator_id for sheet in found}) == sheets.QUERIES
    assert {"creator-000", "creator-009"} & {sheet.query.creator_id for sheet in found}
    for sheet in found:
        for tiles, own in (
            (sheet.by_encoder, sheet.own_by_encoder),
            (sheet.by_same, sheet.own_by_same),
        ):
            creators = [tile.creator_id for tile in tiles]
            assert len(set(creators)) == len(creators) == sheets.NEIGHBOURS
            assert pictures[sheet.query.image] not in [pictures[tile.image] for tile in tiles]
            assert [t.score for t in tiles] == sorted((t.score for t in tiles), reverse=True)
            for place, tile in enumerate(tiles, 1):
                assert tile.marked == (tile.creator_id == sheet.query.creator_id)
                assert tile.marked == (place == own)


def test_default_adjectives_fill_in_where_there_is_no_truth(tmp_path):
    embeddings = write_embeddings(tmp_path / "emb", rows_of(20, 4))
    model = write_checkpoint(tmp_path / "same")
    result = evaluation.evaluate(embeddings, model, encode_texts=encode_texts)
    assert result.adjective_vectors is not None
    expected = ["vivid", "dark", *adjectives.default_adjectives()[: evaluation.WITHOUT_TRUTH]]
    assert result.adjective_vectors.adjectives == expected
    assert len(result.sample.creator_ids) == 20  # adjectives take all creators
    assert 0 < result.sample.evaluated.sum() < 20


def test_features_of_half_precision_are_read_and_the_encoder_is_still_the_embedding(
    tmp_path, no_encoder
):
    generator = np.random.default_rng(5)
    rows = with_objects(rows_of(40, 6))
    directions = {name: generator.normal(size=DIM) for name in ("cat", "dog", "cup", "tree")}
    for row in rows:  # features that know the object alone, and are no unit vectors
        row["features"] = (9 * directions[row["object"]]).astype(np.float16).tolist()
    write_embeddings(tmp_path / "emb", rows, objects=pa.string(), features=pa.float16())
    model = write_checkpoint(tmp_path / "same", input_column="features")
    _, metrics, page = run_job(tmp_path)
    scores = metrics["theme_over_object"]
    assert scores["mean"]["rate"] == 0
    assert scores["embedding"]["rate"] > 0.8
    text = Page(page).text
    assert f"the encoder in {100 * scores['embedding']['rate']:.1f} %." in text
    assert "features 0.0 ± 0.0" in text
    result = evaluation.evaluate(Embeddings.open(str(tmp_path / "emb")), model)
    assert result.sample.inputs.dtype == np.float32
    assert np.linalg.norm(result.sample.inputs, axis=1) == pytest.approx(1, abs=1e-6)
    own = {name: v / np.linalg.norm(v) for name, v in directions.items()}
    assert result.sample.objects is not None
    names = [result.sample.object_names[index] for index in result.sample.objects]
    assert np.allclose(result.sample.inputs, [own[name] for name in names], atol=1e-3)


def test_the_network_of_the_paper_is_a_network(tmp_path, no_encoder):
    write_embeddings(tmp_path / "emb", with_objects(rows_of(40, 4)), objects=pa.string())
    write_checkpoint(tmp_path / "same", architecture="paper")
    _, metrics, page = run_job(tmp_path)
    scores = metrics["theme_over_object"]
    assert scores["same"] != scores["whitened"]
    assert "the closed-form whitening (" in metrics["verdict"]  # which it does not start from
    assert not any("one and the same" in note for note in metrics["notes"])
    assert "SAME less whitened" in Page(page).text


def test_needs_no_ray():
    code = "import jobs.evaluate, sys; sys.exit('ray' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
