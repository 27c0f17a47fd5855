import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from motif import space as spaces
from motif import splits
from motif.artefacts import checkpoint, run
from motif.artefacts.checkpoint import Checkpoint, CheckpointConfig, build_model
from motif.errors import InputError, SpaceError
from motif.model import SameNetwork, WhitenedEmbedding, embed
from tests.synthetic import (
    MadeBy,
    make_space,
    make_whitening,
    rows_of,
    themed,
    write_checkpoint,
    write_embeddings,
)

SPACE = make_space(6)
ROWS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> SameNetwork:
    torch.manual_seed(0)
    network = SameNetwork(make_whitening(6, 4), hidden_dim=16)
    torch.nn.init.normal_(network.last.weight)
    return network


@pytest.fixture
def written(tmp_path, network):
    write_checkpoint(tmp_path / "same", SPACE, network)
    return tmp_path / "same"


def edit(path, **changes) -> None:
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


def test_a_network_comes_back_as_it_was(written, network):
    opened = Checkpoint.open(str(written))
    assert isinstance(opened.model, SameNetwork)
    assert torch.equal(embed(opened.model, ROWS), embed(network, ROWS))
    assert opened.config.architecture == "same"
    assert (opened.config.input_dim, opened.config.dim) == (6, 4)
    assert opened.encoder_space == SPACE
    assert opened.metrics == {"reason": "made up"}
    assert opened.run_id == json.loads((written / "run.json").read_text())["run_id"]
    assert not opened.model.training


def test_a_whitening_comes_back_as_it_was(tmp_path):
    model = WhitenedEmbedding(make_whitening(6, 4))
    opened = Checkpoint.open(write_checkpoint(tmp_path / "same", SPACE, model))
    assert isinstance(opened.model, WhitenedEmbedding)
    assert torch.equal(embed(opened.model, ROWS), embed(model, ROWS))


def test_the_whitening_alone_can_be_had_of_both(tmp_path, written, network):
    expected = network.whitened(ROWS)
    assert torch.equal(Checkpoint.open(str(written)).whitening()(ROWS), expected)
    alone = write_checkpoint(tmp_path / "alone", SPACE, network.whitened)
    assert torch.equal(Checkpoint.open(alone).whitening()(ROWS), expected)


def test_the_fingerprint_is_of_the_encoder_space_and_the_weights(tmp_path, written, network):
    found = Checkpoint.open(str(written)).fingerprint
    again = Checkpoint.open(write_checkpoint(tmp_path / "again", SPACE, network)).fingerprint
    other_space = make_space(6, encoder="another")
    elsewhere = Checkpoint.open(write_checkpoint(tmp_path / "other", other_space, network))
    with torch.no_grad():
        network.last.bias += 1e-3
    moved = Checkpoint.open(write_checkpoint(tmp_path / "moved", SPACE, network)).fingerprint
    assert found == again
    assert len({found, elsewhere.fingerprint, moved}) == 3


def test_splits_are_those_of_training(tmp_path):
    path = write_checkpoint(
        tmp_path / "same", SPACE, test_fraction=0.4, validation_fraction=0.5, test_fold=1
    )
    opened = Checkpoint.open(path)
    ids = [f"c{i}" for i in range(50)]
    expected = [
        splits.split_of(c, test_fraction=0.4, validation_fraction=0.5, test_fold=1) for c in ids
    ]
    assert [opened.split_of(c) for c in ids] == expected
    assert len(set(expected)) == 3


def test_run_json_is_written_last(tmp_path, network):
    config = CheckpointConfig(
        architecture="same",
        input_column="embedding",
        input_dim=6,
        dim=4,
        hidden_dim=16,
        test_fraction=0.1,
        validation_fraction=0.2,
        test_fold=0,
    )
    output = str(tmp_path / "same")
    run.claim(output, checkpoint.ARTEFACT, overwrite=False, owned=checkpoint.OWNED)
    checkpoint.write_weights(output, network, config, {})
    with pytest.raises(InputError, match="is unfinished: run the job that writes it again"):
        Checkpoint.open(output)


def test_tampered_weights_are_refused(written):
    path = written / "model.safetensors"
    weights = load(path.read_bytes())
    weights["last.bias"] = weights["last.bias"] + 1
    path.write_bytes(save(weights))
    with pytest.raises(InputError, match=r"model\.safetensors is not the file that run\.json"):
        Checkpoint.open(str(written))


def test_damaged_weights_are_refused(written):
    path = written / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="train again"):
        Checkpoint.open(str(written))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "metrics.json"])
def test_a_file_that_is_gone_is_named(written, name):
    (written / name).unlink()
    with pytest.raises(InputError, match=name):
        Checkpoint.open(str(written))


def test_no_folder_and_no_artefact_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Checkpoint.open(str(tmp_path / "missing"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="is no artefact of Motif"):
        Checkpoint.open(str(tmp_path / "photos"))


def test_another_artefact_is_refused(tmp_path):
    path = write_embeddings(tmp_path / "embeddings", rows_of(*themed(4, 2, 6)), SPACE)
    with pytest.raises(InputError, match="holds 'embeddings', expected same_checkpoint"):
        Checkpoint.open(path)


def test_a_newer_schema_is_refused(written):
    edit(written / "run.json", schema_version=99)
    with pytest.raises(InputError, match="written by a newer Motif"):
        Checkpoint.open(str(written))


def test_an_unknown_architecture_is_refused(written):
    edit(written / "config.json", architecture="transformer")
    with pytest.raises(InputError, match="unknown architecture 'transformer'"):
        Checkpoint.open(str(written))


def test_a_configuration_that_the_weights_do_not_fit_is_refused(written):
    edit(written / "config.json", hidden_dim=32)
    with pytest.raises(InputError, match=r"weights do not fit config\.json"):
        Checkpoint.open(str(written))


def test_a_configuration_of_other_fields_is_refused(written):
    edit(written / "config.json", colour="red")
    with pytest.raises(InputError, match=r"config\.json is not a SAME configuration.*colour"):
        Checkpoint.open(str(written))


def test_an_edited_space_is_refused(written):
    record = json.loads((written / "run.json").read_text())
    record["space"]["encoder"]["dim"] = 7
    (written / "run.json").write_text(json.dumps(record))
    with pytest.raises(SpaceError, match="the record was edited"):
        Checkpoint.open(str(written))


def test_a_space_swapped_for_another_is_refused(written):
    """The encoder's record is sound, but it is not the one that the weights were trained in."""
    record = json.loads((written / "run.json").read_text())
    record["space"]["encoder"] = make_space(6, encoder="another").to_json()
    (written / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="train again"):
        Checkpoint.open(str(written))


def test_every_architecture_can_be_built_and_filled(network):
    config = CheckpointConfig(
        architecture="same",
        input_column="embedding",
        input_dim=6,
        dim=4,
        hidden_dim=16,
        test_fraction=0.1,
        validation_fraction=0.2,
        test_fold=0,
    )
    build_model(config).load_state_dict(network.state_dict())
    whitening = build_model(replace(config, architecture="whitening"))
    whitening.load_state_dict(network.whitened.state_dict())


def test_the_record_says_how_it_was_made(written):
    record = run.read(str(written), checkpoint.ARTEFACT)
    assert record["config"] == {"encoder": MadeBy().encoder}
    assert record["space"]["fingerprint"] == spaces.same_fingerprint(
        SPACE, checkpoint.weights_sha256(str(written))
    )
