"""Rows of all workers of torch.distributed, as if one process had computed them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def world() -> tuple[int, int]:
    """Return this process's rank and the number of workers; (0, 1) outside torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_rows(vectors: Float[Tensor, "mine ..."], counts: Sequence[int]) -> Tensor:
    """Return the rows of all workers in the order of ranks.

    Gradients flow back to the worker that a row came from, from whoever used it: when each worker
    computes its share of a loss from all rows, each row gets the gradient of the whole loss.

    Args:
        vectors: This worker's rows.
        counts: Rows of each worker.
    """
    return vectors if world()[1] == 1 else _Gather.apply(vectors, tuple(counts))


def total(value: Tensor) -> Tensor:
    """Return the sum of a value over all workers, without gradients."""
    value = value.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(value)
    return value


def of_leader(value: Tensor) -> Tensor:
    """Return the first worker's tensor on all; the others' say its shape and kind.

    What is decided by it is decided alike: machines that differ round differently, and a worker
    that went on alone would wait for ever.
    """
    if world()[1] > 1:
        value = value.detach().clone()
        dist.broadcast(value, src=0)
    return value


def bytes_of_leader(data: bytes | None, device: torch.device) -> bytes | None:
    """Return the first worker's bytes, or None, on all."""
    if world()[1] == 1:
        return data
    size = of_leader(torch.tensor(-1 if data is None else len(data), device=device)).item()
    if size <= 0:
        return None if size else b""
    payload = torch.empty(int(size), dtype=torch.uint8, device=device)
    if world()[0] == 0:
        payload.copy_(torch.frombuffer(bytearray(data or b""), dtype=torch.uint8))
    return of_leader(payload).cpu().numpy().tobytes()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, counts: tuple[int, ...]) -> Tensor:
        rank = dist.get_rank()
        if len(vectors) != counts[rank]:
            raise ValueError(f"{len(vectors)} rows on worker {rank} of {counts}")
        ctx.rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        most = max(counts)  # workers must send as many rows
        padding = [0, 0] * (vectors.dim() - 1) + [0, most - len(vectors)]
        parts = [
            vectors.new_empty((most, *vectors.shape[1:])) for _ in range(dist.get_world_size())
        ]
        dist.all_gather(parts, functional.pad(vectors, padding).contiguous())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[ctx.rows], None
