"""Folding batch normalisation into the convolutions before it: the same function, sooner done.

With the channels-last layout it makes the lite encoder nearly three times as fast in float32 on
two CPU cores.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_batch_norms(model: nn.Module, example: Tensor) -> int:
    """Fold, in place, every batch normalisation that directly follows a convolution.

    Which follows which is seen in one forward pass, so that no architecture need be known.

    Args:
        model: In evaluation mode; its weights change, what it computes does not.
        example: An input.

    Returns:
        How many were folded.
    """
    pairs = _pairs(model, example)
    names = {module: name for name, module in model.named_modules()}
    for norm, conv in pairs:
        _replace(model, names[conv], fuse_conv_bn_eval(conv, norm))
        # timm's BatchNormAct2d has the activation in itself.
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part]
        _replace(model, names[norm], nn.Sequential(*rest))
    return len(pairs)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[nn.BatchNorm2d, nn.Conv2d]]:
    """Return each normalisation with the convolution whose output is its only input."""
    made_by: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no two outputs share an identity
    pairs: list[tuple[nn.BatchNorm2d, nn.Conv2d]] = []
    calls: dict[nn.Module, int] = {}

    def after_conv(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] = calls.get(module, 0) + 1
        made_by[id(output)] = module
        kept.append(output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if (conv := made_by.get(id(inputs[0]))) is not None:
            pairs.append((module, conv))

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(norm, conv) for norm, conv in pairs if calls[conv] == 1]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, module)
