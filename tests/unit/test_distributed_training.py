"""One, two and four real processes over gloo: the same batches, loss, gradient, weights."""

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
from motif.gather import bytes_of_leader, gather_rows, of_leader, total
from motif.losses import triplet_hinges, triplet_loss
from motif.training import fit
from motif.training.hyperparameters import Hyperparameters
from tests.synthetic import make_training_set

WORKERS = (1, 2, 4)
CREATORS, DIM = 8, 5
STEPS = 50
# Creators do not divide evenly among four workers, and dropout is on.
HYPER = Hyperparameters(
    dim=12,
    hidden_dim=32,
    dropout=0.3,
    learning_rate=3e-3,
    creators_per_batch=38,
    steps=STEPS,
    validate_every=10,
    patience=100,
)


def start_and_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    return start, torch.randn(CREATORS, 2, DIM, generator=generator, dtype=torch.float64)


def shares(workers: int) -> list[int]:
    """Creators of each worker, as uneven as they can be."""
    return [CREATORS - (workers - 1), *([1] * (workers - 1))]


def trained_network(wrap) -> tuple[dict[str, torch.Tensor], list[dict[str, float]] | None]:
    """Train in this process; return the last weights, best or not, and the first worker's curve."""
    kept = []

    def keep_and_wrap(network: nn.Module) -> nn.Module:
        kept.append(network)
        return wrap(network)

    generator = np.random.default_rng(0)
    themes = generator.normal(size=(60, 1, 12))
    rows = (themes + generator.normal(size=(60, 7, 12))).reshape(-1, 12)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    data = make_training_set(rows, np.repeat(np.arange(60), 7), range(40), range(40, 60))
    outcome = fit.train(data, HYPER, wrap=keep_and_wrap)
    return kept[0].state_dict(), outcome.curve if outcome else None


def in_a_worker(rank: int, world: int, folder: str) -> None:
    logging.disable()
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    start, rows = start_and_rows()
    matrix = start.clone().requires_grad_()
    counts = shares(world)
    first = sum(counts[:rank])
    mine = functional.normalize(rows[first : first + counts[rank]] @ matrix, dim=-1)
    pairs = gather_rows(mine, counts)
    own, active = triplet_hinges(mine, pairs, first=first, margin=1.0)
    (own / total(active) * world).backward()
    dist.all_reduce(matrix.grad)  # what DistributedDataParallel does: the mean over workers
    matrix.grad /= world
    network, curve = trained_network(
        lambda model: nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
    )
    too_many = ""
    try:
        data = make_training_set(rows.flatten(0, 1).float().numpy(), np.arange(8) // 2, [0, 1], [])
        fit.train(data, replace(HYPER, architecture="paper"))
    except InputError as error:
        too_many = str(error)
    torch.save(
        {
            "order": pairs.detach(),
            "gradient": matrix.grad,
            "agreed": of_leader(torch.tensor(0.25 + rank)).item(),
            "curve": curve,
            "weights": network,
            "too_many": too_many,
            "state": [
                (bytes_of_leader(data if rank == 0 else None, torch.device("cpu")) or b"none").hex()
                for data in (b"state", b"", None)
            ],
        },
        Path(folder, f"{rank}.pt"),
    )
    dist.barrier()  # who leaves first takes the connection with it
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_workers(tmp_path_factory) -> dict[int, list[dict]]:
    spawn = multiprocessing.get_context("spawn")
    found = {}
    for world in WORKERS[1:]:
        folder = tmp_path_factory.mktemp("gloo")
        workers = [
            spawn.Process(target=in_a_worker, args=(rank, world, str(folder)))
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=120)
        assert [worker.exitcode for worker in workers] == [0] * world
        found[world] = [
            torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)
        ]
    return found


@pytest.mark.parametrize("world", WORKERS[1:])
def test_rows_are_gathered_in_the_order_of_workers(by_workers, world):
    start, rows = start_and_rows()
    expected = functional.normalize(rows @ start, dim=-1)
    for worker in by_workers[world]:
        torch.testing.assert_close(worker["order"], expected)


@pytest.mark.parametrize("world", WORKERS[1:])
def test_workers_have_the_gradient_of_one_on_the_whole_batch(by_workers, world):
    start, rows = start_and_rows()
    matrix = start.clone().requires_grad_()
    pairs = functional.normalize(rows @ matrix, dim=-1)
    triplet_loss(pairs, margin=1.0).backward()
    assert matrix.grad.abs().sum() > 0
    for worker in by_workers[world]:
        torch.testing.assert_close(worker["gradient"], matrix.grad)


@pytest.fixture(scope="module")
def alone() -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trained_network(lambda network: network)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("world", WORKERS[1:])
def test_workers_train_the_network_of_one(by_workers, alone, world):
    network, curve = alone
    assert curve[-1]["step"] == STEPS
    assert network["last.weight"].abs().max() > 0.01, "it learned nothing to compare"
    for worker in by_workers[world]:
        for name, value in network.items():
            torch.testing.assert_close(worker["weights"][name], value, atol=1e-3, rtol=1e-2)
    leader, *others = by_workers[world]
    assert [worker["curve"] for worker in others] == [None] * (world - 1)
    for row, expected in zip(leader["curve"], curve, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert row["workers"] == world
        assert row["active_fraction"] == pytest.approx(expected["active_fraction"], abs=2e-3)


@pytest.mark.parametrize("world", WORKERS[1:])
def test_workers_go_by_the_first_ones_value(by_workers, world):
    assert [worker["agreed"] for worker in by_workers[world]] == [0.25] * world
    assert of_leader(torch.tensor(0.75)).item() == 0.75


@pytest.mark.parametrize("world", WORKERS[1:])
def test_all_go_on_from_the_first_ones_state(by_workers, world):
    expected = [data.hex() for data in (b"state", b"none", b"none")]
    assert [worker["state"] for worker in by_workers[world]] == [expected] * world
    assert bytes_of_leader(None, torch.device("cpu")) is None


def test_more_workers_than_a_batch_has_slices_are_refused_by_all(by_workers):
    assert [worker["too_many"] for worker in by_workers[2]] == ["", ""]
    for worker in by_workers[4]:
        assert worker["too_many"].startswith("4 workers for batches of 2 creators")


def test_one_process_gathers_nothing():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows, [3]) is rows
