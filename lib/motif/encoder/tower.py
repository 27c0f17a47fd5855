"""The image tower as one module: uint8 pixels in, unit rows and pooled features out."""

from typing import Any, no_type_check

import open_clip.timm_model
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from motif.space import Preprocess


class ImageTower(nn.Module):
    """Normalises on the device, runs the tower, and splits off its last projection.

    Nothing in it changes after construction, so several threads may call it at once.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(self, visual: Any, preprocess: Preprocess, *, precision: torch.dtype) -> None:
        """Take over `visual`, whose projection is moved out of it.

        Args:
            visual: An image tower of open_clip, in evaluation mode and float32.
            preprocess: Whose `mean` and `std` normalise pixels in [0, 1].
            precision: Of the matrix products; below float32 by autocast.
        """
        super().__init__()
        self._visual = visual
        self._precision = precision
        self._is_timm = isinstance(visual, open_clip.timm_model.TimmModel)
        # Without one (ModifiedResNet pools and projects in one layer) features are embeddings.
        self._projection = None if self._is_timm else getattr(visual, "proj", None)
        if self._projection is not None:
            visual.proj = None
        mean, std = (torch.tensor(row) * 255 for row in (preprocess.mean, preprocess.std))
        # One row of pixels: over three channels alone, broadcasting is several times slower.
        self.register_buffer("_scale", (1 / std).repeat(preprocess.size))
        self.register_buffer("_shift", (-mean / std).repeat(preprocess.size))
        if precision != torch.float32:
            cast_matrices(visual, precision)

    @no_type_check  # jaxtyping's checks cannot be traced by compilers
    def forward(
        self, pixels: UInt8[Tensor, "batch size size 3"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch features"]]:
        """Return unit rows and what the tower pools before its projection, both float32."""
        rows = pixels.flatten(2).float().mul_(self._scale).add_(self._shift)
        batch = rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)  # in channels-last order
        reduced = self._precision != torch.float32
        with torch.autocast(pixels.device.type, self._precision, reduced):
            features, embedding = self._features(batch)
        return functional.normalize(embedding.float(), dim=-1), features.float()

    @no_type_check
    def _features(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if self._is_timm:
            features = self._visual.trunk(batch)
            return features, self._visual.head(features)
        features = self._visual(batch)
        if isinstance(features, tuple):
            features = features[0]  # CoCa's tower also returns its tokens
        return features, features if self._projection is None else features @ self._projection


@torch.no_grad()
def cast_matrices(model: nn.Module, precision: torch.dtype) -> None:
    """Cast, in place, the weights that autocast would cast in every call: the same function.

    Normalisation layers and loose parameters stay float32, as autocast has them.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(precision)
