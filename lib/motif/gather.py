"""Rows of all workers of torch.distributed, as if one process had computed them."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world() -> tuple[int, int]:
    """Return this process's rank and the number of workers; (0, 1) outside torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_rows(vectors: Float[Tensor, "mine ..."]) -> Float[Tensor, "all ..."]:
    """Return the rows of all workers in the order of ranks; every worker brings as many.

    Gradients flow back to the worker that a row came from, from whoever used it: when each worker
    computes its share of a loss from all rows, each row gets the gradient of the whole loss.
    """
    return vectors if world()[1] == 1 else _Gather.apply(vectors)


def total(value: Tensor) -> Tensor:
    """Return the sum of a value over all workers, without gradients."""
    value = value.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(value)
    return value


def of_leader(value: float, device: torch.device) -> float:
    """Return the first worker's value on all, so that all stop at one step.

    Machines that differ round differently; a worker that went on alone would wait for ever.
    """
    if world()[1] == 1:
        return value
    agreed = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(agreed, src=0)
    return agreed.item()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        ctx.rows = len(vectors)
        parts = [torch.empty_like(vectors) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.rows
        return whole[start : start + ctx.rows]
