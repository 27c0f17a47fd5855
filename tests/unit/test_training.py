import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from motif.errors import InputError
from motif.gather import gather_rows, of_leader, total
from motif.losses import triplet_hinges, triplet_loss
from motif.model import SameNetwork, WhitenedEmbedding, embed
from motif.training import (
    Hyperparameters,
    Outcome,
    count_parameters,
    to_metrics,
    train,
)

QUICK = Hyperparameters(
    dim=20, hidden_dim=32, steps=20, validate_every=10, creators_per_batch=16, learning_rate=1e-3
)
# Of data that the whitening cannot separate: the network needs a while before it gets better.
PATIENT = replace(
    QUICK, dim=6, hidden_dim=64, dropout=0.0, learning_rate=3e-3, steps=200, patience=100
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
    assert told["gain"] > told["gain_standard_error"]
    assert told["creators"] == 20
    assert f"{told['mrr_same']:.3f}" in outcome.reason


def test_the_best_network_is_kept_and_not_the_last():
    inputs, creator = themes_up_to_sign()
    hyper = replace(PATIENT, averaging=0.5, learning_rate=2e-2)
    outcome = train(inputs, creator, np.arange(70), np.arange(70, UNSEEN), hyper)
    assert outcome.architecture == "same"
    best = max(row["validation_mrr"] for row in outcome.curve)
    assert outcome.validation["mrr_same"] == pytest.approx(best)
    assert outcome.curve[-1]["validation_mrr"] < best


def test_pure_noise_falls_back_to_the_whitening_and_says_so():
    rows = np.random.default_rng(0).normal(size=(80 * 6, 16))
    creator = np.repeat(np.arange(80), 6)
    outcome = train(unit(rows), creator, np.arange(50), np.arange(50, 80), QUICK)
    assert outcome.architecture == "whitening"
    assert isinstance(outcome.model, WhitenedEmbedding)
    assert outcome.reason.startswith("the network is no better: validation MRR ")
    assert outcome.validation["gain"] <= outcome.validation["gain_standard_error"]
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
    assert not torch.equal(network["residual.1.weight"], other_network["residual.1.weight"])


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_rows_that_are_no_embeddings_are_refused_by_number(value):
    inputs, creator = objects_and_themes(creators=40)
    inputs[7] = value
    inputs[300] = value
    with pytest.raises(InputError, match=r"2 of 400 embeddings .*first: row 7 in the order"):
        train(inputs, creator, np.arange(30), np.arange(30, 40), QUICK)


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
    model = nn.Linear(3, 4)
    outcome = Outcome(model, "same", "because", {"gain": 0.1}, [{"step": 1}])
    assert count_parameters(model) == 3 * 4 + 4
    assert to_metrics(outcome) == {
        "architecture": "same",
        "reason": "because",
        "parameters": 16,
        "validation": {"gain": 0.1},
        "curve": [{"step": 1}],
    }


# -- two processes ------------------------------------------------------------------------------

CREATORS, DIM = 8, 5


def start_and_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    return start, torch.randn(CREATORS, 2, DIM, generator=generator, dtype=torch.float64)


DISTRIBUTED = replace(QUICK, dropout=0.0, learning_rate=3e-3)


def trained_network(wrap) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train in this process and return the last weights, best or not, and the curve."""
    kept = []

    def keep_and_wrap(network: nn.Module) -> nn.Module:
        kept.append(network)
        return wrap(network)

    inputs, creator = objects_and_themes(creators=60)
    outcome = train(
        *(inputs, creator, np.arange(40), np.arange(40, 60), DISTRIBUTED), wrap=keep_and_wrap
    )
    return kept[0].state_dict(), outcome.curve


def in_a_worker(rank: int, world: int, folder: str) -> None:
    logging.disable()
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    start, rows = start_and_rows()
    matrix = start.clone().requires_grad_()
    share = CREATORS // world
    mine = functional.normalize(rows[rank * share : (rank + 1) * share] @ matrix, dim=-1)
    pairs = gather_rows(mine)
    own, active = triplet_hinges(mine, pairs, first=rank * share, margin=1.0)
    (own / total(active) * world).backward()
    dist.all_reduce(matrix.grad)  # what DistributedDataParallel does: the mean over workers
    matrix.grad /= world
    network, curve = trained_network(nn.parallel.DistributedDataParallel)
    torch.save(
        {
            "order": pairs.detach(),
            "gradient": matrix.grad,
            "agreed": of_leader(0.25 + rank, torch.device("cpu")),
            "curve": curve,
            "weights": network,
        },
        Path(folder, f"{rank}.pt"),
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=in_a_worker, args=(r, 2, str(folder))) for r in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in (0, 1)]


def test_rows_are_gathered_in_the_order_of_workers(two_workers):
    start, rows = start_and_rows()
    expected = functional.normalize(rows @ start, dim=-1)
    for worker in two_workers:
        torch.testing.assert_close(worker["order"], expected)


def test_two_workers_have_the_gradient_of_one_on_the_whole_batch(two_workers):
    start, rows = start_and_rows()
    matrix = start.clone().requires_grad_()
    pairs = functional.normalize(rows @ matrix, dim=-1)
    triplet_loss(pairs, margin=1.0).backward()
    assert matrix.grad.abs().sum() > 0
    for worker in two_workers:
        torch.testing.assert_close(worker["gradient"], matrix.grad)


def test_two_workers_train_the_network_of_one(two_workers):
    network, curve = trained_network(lambda network: network)
    assert network["residual.13.weight"].abs().max() > 0.01, "it learned nothing to compare"
    for worker in two_workers:
        for name, value in network.items():
            torch.testing.assert_close(worker["weights"][name], value, atol=1e-4, rtol=1e-3)
        for row, expected in zip(worker["curve"], curve, strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4)


def test_workers_go_by_the_first_ones_score(two_workers):
    assert [worker["agreed"] for worker in two_workers] == [0.25, 0.25]
    assert of_leader(0.75, torch.device("cpu")) == 0.75


def test_one_process_gathers_nothing():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows


def test_where_whitening_harms_the_checkpoint_is_the_plain_mean():
    """A theme along the axis in which a creator's own images differ most: whitening shrinks it."""
    generator = np.random.default_rng(0)
    creator = np.repeat(np.arange(80), 12)
    rows = generator.normal(size=(len(creator), 16))
    # Training creators differ from each other along axis 1, validation creators along axis 0.
    rows[:, 0] += np.where(creator < 50, 6, 0) * generator.normal(size=len(creator))
    rows[:, 1] += np.where(creator < 50, 3, 0) * generator.normal(size=80)[creator]
    rows[:, 0] += np.where(creator < 50, 0, 3) * generator.normal(size=80)[creator]
    outcome = train(unit(rows), creator, np.arange(50), np.arange(50, 80), QUICK)
    assert outcome.architecture == "mean"
    assert "plain mean is better" in outcome.reason
    vectors = outcome.model(unit(rows))
    torch.testing.assert_close(vectors, unit(rows), rtol=1e-5, atol=1e-5)
