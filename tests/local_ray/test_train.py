import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from jobs import train_same
from motif import schemas
from motif.artefacts import checkpoint, run
from motif.artefacts.checkpoint import Checkpoint
from motif.artefacts.embeddings import Embeddings
from motif.errors import InputError, OutputError
from motif.model import PaperNetwork, SameNetwork, embed
from tests.commands_in_process import refused, snapshot
from tests.synthetic import make_space, rows_of, themed, unit, write_embeddings

QUICK = {
    **{"dim": 3, "hidden_dim": 64, "dropout": 0.0, "learning_rate": 3e-3, "creators_per_batch": 16},
    **{"steps": 400, "validate_every": 10, "patience": 100},
}


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> str:
    """EMBEDDINGS whose themes show up to sign, so that a network is better than the whitening."""
    generator = np.random.default_rng(0)
    themes = unit(generator.normal(size=(60, 1, 3)))
    signs = generator.choice([-1, 1], (60, 12, 1))
    rows = unit(signs * themes + 0.1 * generator.normal(size=(60, 12, 3))).reshape(-1, 3)
    ids = [f"creator-{i:03d}" for i in range(60) for _ in range(12)]
    folder = tmp_path_factory.mktemp("signed")
    return write_embeddings(folder / "embeddings", rows_of(ids, rows), make_space(3))


def train(embeddings: str, output: Path, **more) -> dict:
    settings = {**QUICK, **more}
    return train_same.main(train_same.Config(embeddings=embeddings, output=str(output), **settings))


@pytest.fixture(scope="module")
def trained(signed, tmp_path_factory, ray_local) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("trained") / "same"
    return output, train(signed, output)


def test_training_leaves_a_checkpoint_and_nothing_else(trained, signed):
    output, record = trained
    names = sorted(path.name for path in output.iterdir())
    assert names == ["config.json", "metrics.json", "model.safetensors", "run.json"]
    newest = max(output.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "run.json"
    assert json.loads((output / "run.json").read_text()) == json.loads(json.dumps(record))
    opened = Checkpoint.open(str(output))
    assert record["architecture"] == "same", record["reason"]
    assert isinstance(opened.model, SameNetwork)
    assert opened.encoder_space == Embeddings.open(signed).space
    assert record["space"]["fingerprint"] == opened.fingerprint
    assert opened.metrics["curve"][-1]["step"] == 400


def test_training_counts_every_creator_once(trained, signed):
    counts = trained[1]["counts"]
    assert counts["images"] == 720
    opened = Checkpoint.open(str(trained[0]))
    ids = set(Embeddings.open(signed).read(["creator_id"])["creator_id"].to_pylist())
    found = [opened.split_of(creator) for creator in ids]
    for split in ("train", "validation", "test"):
        assert counts[f"{split}_creators"] == found.count(split) > 0


def curve(output: Path) -> list[dict]:
    return Checkpoint.open(str(output)).metrics["curve"]


def test_two_workers_train_the_network_of_one(signed, tmp_path, ray_local):
    inputs = torch.tensor(schemas.matrix(Embeddings.open(signed).read()["embedding"]))
    outputs, curves = [], []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        settings = {"architecture": "paper", "steps": 50, "learning_rate": 1e-3}
        train(signed, folder, num_workers=workers, **settings)
        outputs.append(embed(Checkpoint.open(str(folder)).model, inputs))
        curves.append(curve(folder))
    # Adam turns a rounding error in a gradient near zero into a step: they drift apart, slowly.
    assert functional.cosine_similarity(*outputs).min() > 0.999
    assert [row["step"] for row in curves[0]] == [10, 20, 30, 40, 50]
    for row, expected in zip(*curves, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-2)
    assert curves[0][0]["loss"] == pytest.approx(curves[1][0]["loss"], abs=1e-4)
    assert curves[0][-1]["loss"] < 0.9 * curves[0][0]["loss"], "it learned nothing to compare"


def test_a_finished_checkpoint_is_refused_and_untouched(trained, signed):
    before = snapshot(trained[0])
    with pytest.raises(OutputError, match="holds finished same_checkpoint"):
        train(signed, trained[0])
    assert snapshot(trained[0]) == before


def test_outputs_that_are_not_ours_are_refused_and_untouched(signed, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    for output, told in ((tmp_path / "photos", "was not made by Motif"), (Path(signed), "holds")):
        before = snapshot(output)
        with pytest.raises(OutputError, match=told):
            train(signed, output, overwrite=True)
        assert snapshot(output) == before


def test_a_dry_run_of_training_writes_nothing(signed, tmp_path, capsys):
    plan = train(signed, tmp_path / "same", dry_run=True)
    assert not (tmp_path / "same").exists()
    assert plan["train_creators"] + plan["validation_creators"] + plan["test_creators"] == 60
    assert "720" in capsys.readouterr().out


def test_flags_are_checked_before_anything_is_read(tmp_path):
    for flag, value in (
        *(("test_fraction", 1.0), ("validation_fraction", -0.1), ("num_workers", 0)),
        *(("margin", 0.0), ("seed", -1), ("test_fold", -1), ("test_fold", 10)),
        *(("min_workers", 0), ("min_workers", 2), ("max_failures", -1), ("save_minutes", -1.0)),
        *(("num_workers", 17), ("save_minutes", float("nan"))),
    ):
        with pytest.raises(InputError, match=f"--{flag.replace('_', '-')} {value}"):
            train("/nowhere", tmp_path / "same", **{flag: value})


def test_more_workers_than_the_cluster_has_are_refused_at_once(signed, tmp_path, ray_local):
    with pytest.raises(InputError, match=r"training on 16 needs 16 CPUs at once, but the cluster"):
        train(signed, tmp_path / "same", num_workers=16)


@pytest.mark.soak
def test_an_embedding_that_is_none_is_refused_by_name(ray_local, tmp_path, monkeypatch, capfd):
    ids, vectors = themed(30, 3, 6)
    vectors[40] = float("nan")
    uri = write_embeddings(tmp_path / "embeddings", rows_of(ids, vectors), make_space(6))
    flags = ("--embeddings", uri, "--output", str(tmp_path / "same"), "--test-fraction", "0")
    scratch = tmp_path / "scratch"
    flags += ("--num-workers", "2", "--scratch", str(scratch))
    told = refused(monkeypatch, capfd, train_same, *flags)
    assert told.count("error: ") == 1, told
    assert list(scratch.iterdir()) == []
    expected = "1 vectors in 'embedding' are zero or not finite (first: image 'image-00040'"
    assert expected in told.splitlines()[-1]


@pytest.mark.soak
def test_the_papers_network_is_one_flag_away(signed, tmp_path, ray_local):
    scratch = tmp_path / "scratch"
    record = train(signed, tmp_path / "same", architecture="paper", steps=20, scratch=str(scratch))
    assert record["architecture"] == "paper"
    opened = Checkpoint.open(str(tmp_path / "same"))
    assert isinstance(opened.model, PaperNetwork)
    assert opened.whitening().matrix.shape == (3, 3)
    assert list(scratch.iterdir()) == [], "the training set is scratch"


@pytest.mark.soak
def test_features_are_learned_from_where_they_are(tmp_path, ray_local):
    ids, vectors = themed(30, 4, 6)
    rows = rows_of(ids, vectors)
    features = schemas.vector_array(3 * vectors[:, :5], item=schemas.HALF)
    rows = rows.append_column(schemas.embeddings(6, features_dim=5).field("features"), features)
    uri = write_embeddings(tmp_path / "embeddings", rows, make_space(6))
    quick = {"architecture": "whitening", "dim": 4}
    for wanted, column, length in (("auto", "features", 5), ("embedding", "embedding", 6)):
        record = train(uri, tmp_path / wanted, input=wanted, **quick)
        config = Checkpoint.open(str(tmp_path / wanted)).config
        assert record["input_column"] == config.input_column == column
        assert (config.input_dim, config.dim) == (length, 4)


def test_a_refusal_in_a_worker_is_one_line_and_leaves_what_can_be_repeated(
    ray_local, tmp_path, monkeypatch, capfd
):
    ids, vectors = themed(30, 1, 6)
    single = write_embeddings(tmp_path / "single", rows_of(ids, vectors), make_space(6))
    flags = ("--embeddings", single, "--output", str(tmp_path / "same"), "--test-fraction", "0")
    scratch = tmp_path / "scratch"
    told = refused(monkeypatch, capfd, train_same, *flags, "--scratch", str(scratch))
    assert list(scratch.iterdir()) == []
    # What it was reading may stand before it.
    assert told.count("error: ") == 1, told
    last = told.splitlines()[-1]
    assert last.startswith("error: training needs at least two creators with two images each")
    with pytest.raises(InputError, match="is unfinished"):
        Checkpoint.open(str(tmp_path / "same"))
    assert run.state(str(tmp_path / "same"), checkpoint.ARTEFACT) is run.State.UNFINISHED
