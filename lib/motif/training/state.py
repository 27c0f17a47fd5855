"""Where training stands: what a later process needs to go on as if nothing had happened."""

import json
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


@runtime_checkable
class Keeper(Protocol):
    """Keeps one state; what is written is there whole or not at all."""

    def load(self) -> bytes | None:
        """Return what was kept last, if anything."""
        ...

    def save(self, data: bytes) -> None:
        """Replace what was kept."""
        ...


class Forgets:
    """Keeps nothing."""

    def load(self) -> None:
        """There is nothing."""

    def save(self, data: bytes) -> None:
        """Do nothing."""


@dataclass
class State:
    """Between two steps."""

    tensors: dict[str, dict[str, Tensor]]
    """`network`, `average`, `best`: weights; `optimizer`: by parameter and name."""
    told: dict[str, Any]
    """What JSON can carry: where it stands."""

    def to_bytes(self) -> bytes:
        """Return one safetensors file."""
        flat = {
            f"{group}/{name}": value.detach().cpu().contiguous()
            for group, tensors in self.tensors.items()
            for name, value in tensors.items()
        }
        return save(flat, metadata={"told": json.dumps(self.told)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "State | None":
        """Read what `to_bytes` wrote; None if it is not that."""
        tensors: dict[str, dict[str, Tensor]] = {}
        try:
            # The format: eight bytes with the length of a JSON header, the header, the tensors.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            told = json.loads(header["__metadata__"]["told"])
            for key, value in load(data).items():
                group, _, name = key.partition("/")
                tensors.setdefault(group, {})[name] = value
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None
        return cls(tensors, told)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state, by the parameter's number and the name."""
    return {
        f"{number}/{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
