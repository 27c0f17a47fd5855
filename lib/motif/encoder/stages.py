"""The stages of an image tower, by open_clip's and timm's own `forward_intermediates`.

An artist's style is in the early and middle stages, of which the embedding tells little. What is
changed here makes other `features`, so `motif.space.FEATURES` has to change with it.
"""

import inspect
from typing import Any, no_type_check

import open_clip.timm_model
import torch
from torch import Tensor, nn
from torch.nn import functional

ISOTROPIC_BLOCKS = 4  # neighbours in a network whose blocks are all alike tell much the same


@torch.no_grad()
def choose(visual: nn.Module, example: Tensor) -> dict[str, Any] | None:
    """Choose the stages that make up `features`.

    Where their widths differ, as in convolutional networks, all of them; where all are alike, as
    in a ViT, four that are evenly spaced: of 12 blocks the third, sixth, ninth and last.

    Args:
        visual: An image tower of open_clip, in evaluation mode.
        example: A batch for it, of one image.

    Returns:
        Arguments of `embed`; None if the tower does not give its stages away.
    """
    network: Any = visual.trunk if isinstance(visual, open_clip.timm_model.TimmModel) else visual
    if not hasattr(network, "forward_intermediates"):
        return None
    options: dict[str, Any] = {}
    if "extra_blocks" in inspect.signature(network.forward_intermediates).parameters:
        # EfficientNets and their like leave some blocks out unless asked, and then add the stem.
        options = {"extra_blocks": True, "indices": len(network.blocks)}
    _, stages = embed(visual, example, options)
    if len({stage.shape[1] for stage in stages}) > 1:
        return options
    quarters = range(1, ISOTROPIC_BLOCKS + 1)
    ends = {max(len(stages) * quarter // ISOTROPIC_BLOCKS, 1) for quarter in quarters}
    return {**options, "indices": sorted(end - 1 for end in ends)}


@no_type_check  # jaxtyping's checks cannot be traced by compilers
def embed(visual: Any, batch: Tensor, options: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Return the embeddings of a batch, and what each stage put out on the way.

    Args:
        visual: An image tower of open_clip.
        batch: Normalised images, (batch, 3, size, size).
        options: From `choose`.

    Returns:
        The embeddings, not normalised, and for each stage (batch, width, height, width in space):
        of a ViT the patches alone, without the class token.
    """
    if isinstance(visual, open_clip.timm_model.TimmModel):
        last, stages = visual.trunk.forward_intermediates(batch, **options)
        return visual.head(visual.trunk.forward_head(last)), stages
    output = visual.forward_intermediates(batch, **options)
    return output["image_features"], output["image_intermediates"]


@no_type_check
def unit_means(stages: list[Tensor]) -> Tensor:
    """Return each stage's spatial mean at unit length, all of them in one row; float32.

    A stage that is zero everywhere stays zero.
    """
    means = (stage.mean((2, 3), dtype=torch.float32) for stage in stages)
    return torch.cat([functional.normalize(mean, dim=1) for mean in means], dim=1)
