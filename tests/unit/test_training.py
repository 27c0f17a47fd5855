from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from motif.errors import InputError
from motif.model import PaperNetwork, SameNetwork, WhitenedEmbedding, embed
from motif.training import fit
from motif.training.fit import Outcome, to_metrics
from motif.training.hyperparameters import Hyperparameters
from motif.training.state import State
from motif.whitening import RIDGES, Whitening
from tests.synthetic import make_training_set

QUICK = Hyperparameters(
    dim=20, hidden_dim=32, steps=20, validate_every=10, creators_per_batch=16, learning_rate=1e-3
)
# Of data that the whitening cannot separate: the network needs a while before it gets better.
PATIENT = replace(
    QUICK, dim=6, hidden_dim=64, dropout=0.0, learning_rate=3e-3, steps=350, patience=100
)
# Creators from here on take no part in training and validation.
UNSEEN = 90


@pytest.fixture(autouse=True)
def _one_thread():
    """Small matrices are slowed down a hundredfold when threads wait for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unit(rows: np.ndarray) -> torch.Tensor:
    return functional.normalize(torch.from_numpy(rows.reshape(-1, rows.shape[-1])).float(), dim=1)


def objects_and_themes(seed: int = 0, *, creators: int = 150, images: int = 10):
    """A theme in 20 of 24 dimensions, drowned by objects that all creators photograph."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((creators, images, 24))
    rows[:, :, :20] = 0.3 * generator.normal(size=(creators, 1, 20))
    rows[:, :, :20] += 0.3 * generator.normal(size=(creators, images, 20))
    objects = 4 * generator.normal(size=(20, 4))
    rows[:, :, 20:] = objects[generator.integers(0, 20, (creators, images))]
    return unit(rows), np.repeat(np.arange(creators), images)


def themes_up_to_sign(seed: int = 0, *, creators: int = 120, images: int = 12):
    """No linear map finds these themes: each image shows its creator's theme or the opposite."""
    generator = np.random.default_rng(seed)
    themes = generator.normal(size=(creators, 1, 6))
    themes /= np.linalg.norm(themes, axis=2, keepdims=True)
    signs = generator.choice([-1, 1], (creators, images, 1))
    rows = signs * themes + 0.1 * generator.normal(size=(creators, images, 6))
    return unit(rows), np.repeat(np.arange(creators), images)


def hit_rate(vectors: np.ndarray, creator: np.ndarray, unseen: range) -> float:
    """How often the second half of a creator's images is nearest to the first half."""
    halves = []
    for side in (0, 1):
        means = [vectors[creator == c][side::2].mean(axis=0) for c in unseen]
        halves.append(np.stack([mean / np.linalg.norm(mean) for mean in means]))
    hits = 0
    for i in range(len(unseen)):
        similarities = [float(halves[0][i] @ candidate) for candidate in halves[1]]
        hits += int(np.argmax(similarities)) == i
    return hits / len(unseen)


def train(inputs, creator, training, validation, hyper, **more) -> Outcome:
    data = make_training_set(inputs.numpy(), creator, training, validation)
    outcome = fit.train(data, hyper, **more)
    assert outcome is not None
    return outcome


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return outcome.model.state_dict()


def test_whitening_beats_the_mean_embedding_on_unseen_creators():
    inputs, creator = objects_and_themes()
    outcome = train(inputs, creator, np.arange(60), np.arange(60, UNSEEN), QUICK)
    same = embed(outcome.model, inputs).numpy()
    unseen = range(UNSEEN, 150)
    plain = hit_rate(inputs.numpy(), creator, unseen)
    assert hit_rate(same, creator, unseen) > plain + 0.3
    assert plain < 0.5


def test_the_network_beats_the_whitening_where_themes_are_not_linear():
    inputs, creator = themes_up_to_sign()
    outcome = train(inputs, creator, np.arange(70), np.arange(70, UNSEEN), PATIENT)
    assert outcome.architecture == "same"
    assert isinstance(outcome.model, SameNetwork)
    unseen = range(UNSEEN, 120)
    whitened = hit_rate(embed(outcome.model.whitened, inputs).numpy(), creator, unseen)
    assert hit_rate(embed(outcome.model, inputs).numpy(), creator, unseen) > whitened + 0.2
    told = outcome.validation
    assert told["gain"] == pytest.approx(told["mrr_same"] - told["mrr_whitening"])
    assert told["gain"] > 2 * told["gain_standard_error"]
    assert told["creators"] == 20
    assert f"{told['mrr_same']:.3f}" in outcome.reason


def test_the_best_network_is_kept_and_not_the_last():
    inputs, creator = themes_up_to_sign()
    calls = []

    def astray_at_last(network: nn.Module) -> nn.Module:
        network.register_forward_pre_hook(lambda module, rows: calls.append(1))
        for parameter in network.parameters():
            parameter.register_hook(lambda gradient: -gradient if len(calls) > 300 else gradient)
        return network

    hyper = replace(PATIENT, averaging=0.5, learning_rate=1e-2, steps=350)
    outcome = train(
        *(inputs, creator, np.arange(70), np.arange(70, UNSEEN), hyper), wrap=astray_at_last
    )
    assert outcome.architecture == "same"
    best = max(row["validation_mrr"] for row in outcome.curve)
    assert outcome.validation["mrr_same"] == pytest.approx(best)
    assert outcome.curve[-1]["validation_mrr"] < best - 0.1


def test_pure_noise_falls_back_to_the_whitening_and_says_so():
    rows = np.random.default_rng(0).normal(size=(80 * 6, 16))
    creator = np.repeat(np.arange(80), 6)
    outcome = train(unit(rows), creator, np.arange(50), np.arange(50, 80), QUICK)
    assert outcome.architecture == "whitening"
    assert isinstance(outcome.model, WhitenedEmbedding)
    assert outcome.reason.startswith("the network is no better: validation MRR ")
    assert outcome.validation["gain"] <= 2 * outcome.validation["gain_standard_error"]
    assert outcome.curve


@pytest.mark.parametrize("validation", [[], [60], [60, 61], [60, 61, 75, 76, 77]])
def test_few_validation_creators_fall_back_to_the_whitening_and_say_so(validation):
    inputs, creator = objects_and_themes(creators=80)
    keep = (creator < 75) | (np.arange(len(creator)) % 10 == 0)  # from 75 on, one image each
    chosen = np.array(validation, int)
    outcome = train(inputs[keep], creator[keep], np.arange(60), chosen, QUICK)
    assert outcome.architecture == "whitening"
    usable = len([c for c in validation if c < 75])
    assert f"only {usable} of {len(validation)} validation creators" in outcome.reason
    assert outcome.validation == {}
    assert outcome.curve == []


def test_a_network_that_diverges_is_not_kept():
    inputs, creator = objects_and_themes(creators=60)

    def poison(network: nn.Module) -> nn.Module:
        for parameter in network.parameters():
            parameter.register_hook(lambda gradient: gradient * float("nan"))
        return network

    outcome = train(inputs, creator, np.arange(40), np.arange(40, 60), QUICK, wrap=poison)
    assert outcome.architecture == "whitening"
    assert outcome.validation["mrr_same"] == pytest.approx(outcome.validation["mrr_whitening"])
    assert [row["validation_mrr"] for row in outcome.curve] == [0, 0]


def test_validation_and_test_creators_are_not_learned_from():
    inputs, creator = objects_and_themes(creators=60)
    changed = inputs.clone()
    changed[creator >= 40] = unit(np.random.default_rng(1).normal(size=(200, 24)))
    few = np.array([], int)
    first = train(inputs, creator, np.arange(40), few, QUICK)
    second = train(changed, creator, np.arange(40), few, QUICK)
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    inputs, creator = objects_and_themes(creators=80)

    def run(seed: int) -> tuple[Outcome, dict[str, torch.Tensor]]:
        torch.rand(7)  # whatever was drawn before does not matter
        kept = []
        outcome = train(
            inputs,
            creator,
            np.arange(50),
            np.arange(50, 80),
            replace(QUICK, seed=seed),
            wrap=lambda network: kept.append(network) or network,
        )
        return outcome, kept[0].state_dict()

    (first, network), (again, same_network), (_, other_network) = run(3), run(3), run(4)
    assert first.reason == again.reason
    assert [r["loss"] for r in first.curve] == [r["loss"] for r in again.curve]
    for name, value in network.items():
        assert torch.equal(value, same_network[name]), name
    assert not torch.equal(network["last.weight"], other_network["last.weight"])


def test_training_stops_when_validation_stops_to_improve():
    inputs, creator = objects_and_themes(creators=80)
    hyper = replace(QUICK, steps=500, validate_every=2, patience=3, learning_rate=1e-9)
    rows = []
    outcome = train(inputs, creator, np.arange(50), np.arange(50, 80), hyper, report=rows.append)
    # Nothing moves, so no validation is better than the start: it stops after 3 of them.
    assert [row["step"] for row in outcome.curve] == [2, 4, 6]
    assert rows == outcome.curve


@pytest.mark.parametrize("steps", [1, 9, 10, 11])
def test_the_last_step_is_always_validated(steps):
    inputs, creator = objects_and_themes(creators=40)
    hyper = replace(QUICK, steps=steps, patience=100)
    outcome = train(inputs, creator, np.arange(20), np.arange(20, 40), hyper)
    assert outcome.curve[-1]["step"] == steps


def test_creators_with_one_image_do_not_harm():
    inputs, creator = objects_and_themes(creators=60)
    keep = (creator % 3 != 0) | (np.arange(len(creator)) % 10 == 0)
    outcome = train(inputs[keep], creator[keep], np.arange(40), np.arange(40, 60), QUICK)
    assert outcome.validation["creators"] == len([c for c in range(40, 60) if c % 3 != 0])


@pytest.mark.parametrize("training", [[], [0], [0, 1]])
def test_too_few_creators_are_refused(training):
    inputs, creator = objects_and_themes(creators=3, images=3)
    keep = np.array([0, 1, 2, 3, 6, 7, 8])  # creator 1 has one image
    with pytest.raises(InputError, match="at least two creators with two images") as caught:
        train(inputs[keep], creator[keep], np.array(training, int), np.array([], int), QUICK)
    assert f"among {len(training)} training creators" in str(caught.value)


def test_creators_whose_images_are_all_copies_are_refused():
    rows = np.repeat(np.random.default_rng(0).normal(size=(10, 8)), 3, axis=0)
    with pytest.raises(InputError, match="no creator has two different images"):
        train(unit(rows), np.repeat(np.arange(10), 3), np.arange(10), np.array([], int), QUICK)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("dim", 0), ("hidden_dim", 0), ("steps", 0), ("validate_every", 0), ("patience", 0)),
        *(("margin", 0.0), ("margin", 2.5), ("dropout", 1.0), ("dropout", -0.1)),
        *(("learning_rate", 0.0), ("learning_rate", float("nan")), ("creators_per_batch", 1)),
        *(("set_sizes", ()), ("set_sizes", (2, 0)), ("averaging", 1.0), ("averaging", -0.1)),
        *(("weight_decay", -1.0), ("weight_decay", float("nan")), ("seed", -1)),
    ],
)
def test_senseless_hyperparameters_are_refused_by_flag_and_value(flag, value):
    with pytest.raises(InputError) as caught:
        replace(Hyperparameters(), **{flag: value}).check()
    assert str(caught.value).startswith(f"--{flag.replace('_', '-')} {value}")


def test_default_hyperparameters_make_sense():
    Hyperparameters().check()


def test_metrics_say_what_was_kept_and_why():
    inputs, creator = objects_and_themes(creators=10)
    data = make_training_set(inputs.numpy(), creator, range(8), range(8, 10))
    outcome = Outcome(nn.Linear(3, 4), "same", "because", {"gain": 0.1}, [{"step": 1}])
    assert to_metrics(outcome, data) == {
        "architecture": "same",
        "reason": "because",
        "parameters": 16,
        "validation": {"gain": 0.1},
        "curve": [{"step": 1}],
        "counts": asdict(data.counts),
    }


def test_the_curve_says_loss_active_triplets_and_what_validation_found():
    inputs, creator = objects_and_themes(creators=60)
    outcome = train(inputs, creator, np.arange(40), np.arange(40, 60), QUICK)
    for row in outcome.curve:
        assert 0 < row["loss"] < 2.2
        assert 0 < row["active_fraction"] <= 1
        assert 0 < row["validation_hit_rate"] <= row["validation_mrr"] <= 1
        assert row["steps_per_second"] > 0
        assert row["workers"] == 1


def test_the_ridge_is_the_smallest_that_validation_likes_best():
    inputs, creator = objects_and_themes(creators=80)
    told = train(inputs, creator, np.arange(50), np.arange(50, 80), QUICK).validation
    assert list(told["mrr_by_ridge"]) == [f"{ridge:g}" for ridge in RIDGES]
    best = max(told["mrr_by_ridge"].values())
    liked = [float(r) for r, mrr in told["mrr_by_ridge"].items() if mrr >= best - fit.LEVEL]
    assert told["ridge"] == min(liked)
    assert told["mrr_by_ridge"][f"{told['ridge']:g}"] == told["mrr_whitening"]


def test_a_whitening_that_is_kept_has_learned_from_validation_creators_too():
    inputs, creator = objects_and_themes(creators=80)
    hyper = replace(QUICK, architecture="whitening")
    outcome = train(inputs, creator, np.arange(50), np.arange(50, 80), hyper)
    assert outcome.architecture == "whitening"
    assert outcome.reason.startswith("asked for; validation MRR")
    assert outcome.curve == []
    whitening = fit.fit_moments(
        fit.moments(inputs, torch.from_numpy(creator)),
        keep=QUICK.dim,
        ridge=outcome.validation["ridge"],
    )
    torch.testing.assert_close(outcome.model.mean, whitening.mean, rtol=1e-4, atol=1e-6)
    # The components' signs are free.
    expected = inputs @ whitening.matrix
    found = inputs @ outcome.model.matrix
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-4)


def test_moments_of_many_images_are_of_every_nth_creator(monkeypatch):
    inputs, creator = objects_and_themes(creators=60)
    offsets = np.arange(0, 601, 10)
    for chunk in (16384, 25, 7):
        monkeypatch.setattr(fit, "_CHUNK_IMAGES", chunk)
        found = fit._moments(inputs.numpy(), offsets)
        expected = fit.moments(inputs, torch.from_numpy(creator))
        assert (found.images, found.creators) == (600, 60)
        torch.testing.assert_close(found.within, expected.within)
        torch.testing.assert_close(found.between, expected.between)
    monkeypatch.setattr(fit, "WHITENING_IMAGES", 250)
    assert fit._moments(inputs.numpy(), offsets).creators == 20


def test_the_papers_network_is_kept_though_it_is_worse():
    inputs, creator = objects_and_themes(creators=60)
    hyper = replace(QUICK, architecture="paper")
    outcome = train(inputs, creator, np.arange(40), np.arange(40, 60), hyper)
    assert outcome.architecture == "paper"
    assert isinstance(outcome.model, PaperNetwork)
    assert outcome.validation["gain"] < 0
    assert outcome.reason.startswith("asked for; validation MRR")


def test_the_papers_network_learns_with_nobody_to_judge_it():
    inputs, creator = objects_and_themes(creators=40)
    hyper = replace(QUICK, architecture="paper")
    outcome = train(inputs, creator, np.arange(40), np.array([], int), hyper)
    assert outcome.architecture == "paper"
    assert [row["step"] for row in outcome.curve] == [10, 20]
    torch.manual_seed(hyper.seed)
    whitened = outcome.model.whitened
    start = PaperNetwork(Whitening(whitened.mean, whitened.matrix), hidden_dim=hyper.hidden_dim)
    assert not torch.equal(start.layers[0].weight, outcome.model.layers[0].weight)


class Memory:
    """Keeps all states; forgets all but the first `keep`, as a kill would."""

    def __init__(self, kept: bytes | None = None) -> None:
        self.saved: list[bytes] = []
        self._kept = kept

    def load(self) -> bytes | None:
        return self._kept

    def save(self, data: bytes) -> None:
        self.saved.append(data)


@pytest.mark.parametrize("taken_up_after", [10, 30, 60])
def test_training_taken_up_again_ends_as_if_it_had_not_been_cut_off(taken_up_after):
    inputs, creator = themes_up_to_sign()
    hyper = replace(PATIENT, steps=60, dropout=0.2, learning_rate=2e-2, averaging=0.5)
    arguments = (inputs, creator, np.arange(70), np.arange(70, UNSEEN), hyper)

    def run(keeper: Memory) -> tuple[Outcome, dict[str, torch.Tensor]]:
        networks = []
        outcome = train(
            *arguments,
            keeper=keeper,
            save_every_seconds=0,
            wrap=lambda network: networks.append(network) or network,
        )
        return outcome, networks[0].state_dict()

    whole = Memory()
    expected, last = run(whole)
    assert len(whole.saved) == 6
    state = whole.saved[taken_up_after // 10 - 1]
    assert State.from_bytes(state).told["step"] == taken_up_after
    later = Memory(state)
    found, last_again = run(later)
    assert len(later.saved) == (60 - taken_up_after) // 10
    for name, value in last.items():
        assert torch.equal(value, last_again[name]), name
    for name, value in weights(expected).items():
        assert torch.equal(value, weights(found)[name]), name
    for rows in (expected.curve, found.curve):
        for row in rows:
            row.pop("steps_per_second")
    assert found.curve == expected.curve


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", None])
def test_a_state_that_is_no_state_is_not_taken_up(damage):
    inputs, creator = objects_and_themes(creators=60)
    kept = Memory()
    train(
        *(inputs, creator, np.arange(40), np.arange(40, 60), QUICK),
        keeper=kept,
        save_every_seconds=0,
    )
    broken = kept.saved[0][:-100] if damage is None else damage
    assert State.from_bytes(broken) is None
    again = Memory(broken)
    train(
        *(inputs, creator, np.arange(40), np.arange(40, 60), QUICK),
        keeper=again,
        save_every_seconds=0,
    )
    assert again.saved[0] == kept.saved[0] or len(again.saved) == len(kept.saved)


def test_where_whitening_harms_the_checkpoint_is_the_plain_mean():
    """A theme along the axis in which a creator's own images differ most: whitening shrinks it."""
    generator = np.random.default_rng(0)
    creator = np.repeat(np.arange(80), 12)
    rows = generator.normal(size=(len(creator), 16))
    # Training creators differ from each other along axis 1, validation creators along axis 0.
    rows[:, 0] += np.where(creator < 50, 20, 0) * generator.normal(size=len(creator))
    rows[:, 1] += np.where(creator < 50, 3, 0) * generator.normal(size=80)[creator]
    rows[:, 0] += np.where(creator < 50, 0, 2) * generator.normal(size=80)[creator]
    outcome = train(unit(rows), creator, np.arange(50), np.arange(50, 80), QUICK)
    assert outcome.architecture == "mean"
    assert "plain mean is better" in outcome.reason
    vectors = outcome.model(unit(rows))
    torch.testing.assert_close(vectors, unit(rows), rtol=1e-5, atol=1e-5)
