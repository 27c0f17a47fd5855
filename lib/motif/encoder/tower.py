"""The image tower as one module: uint8 pixels in, unit rows and perhaps features out."""

from typing import Any, no_type_check

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from motif.encoder import stages
from motif.space import Preprocess


class ImageTower(nn.Module):
    """Normalises on the device and runs the tower; on the way it sums up the tower's stages.

    Nothing in it changes after construction, so several threads may call it at once.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self, visual: Any, preprocess: Preprocess, *, precision: torch.dtype, features: bool
    ) -> None:
        """Take over `visual`, whose matrices may be cast.

        Args:
            visual: An image tower of open_clip, in evaluation mode and float32.
            preprocess: Whose `mean` and `std` normalise pixels in [0, 1].
            precision: Of the matrix products; below float32 by autocast.
            features: Also return them; a tower that does not give its stages away has none but
                the embedding.
        """
        super().__init__()
        self._visual = visual
        self._precision = precision
        self._with_features = features
        self._stages: dict[str, Any] | None = None
        if features:
            device = next(visual.parameters()).device
            example = torch.zeros(1, 3, preprocess.size, preprocess.size, device=device)
            self._stages = stages.choose(visual, example)
        mean, std = (torch.tensor(row) * 255 for row in (preprocess.mean, preprocess.std))
        # One row of pixels: over three channels alone, broadcasting is several times slower.
        self.register_buffer("_scale", (1 / std).repeat(preprocess.size))
        self.register_buffer("_shift", (-mean / std).repeat(preprocess.size))
        if precision != torch.float32:
            cast_matrices(visual, precision)

    @no_type_check  # jaxtyping's checks cannot be traced by compilers
    def forward(
        self, pixels: UInt8[Tensor, "batch size size 3"]
    ) -> (
        tuple[Float[Tensor, "batch dim"]]
        | tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch features"]]
    ):
        """Return unit rows and, if they are wanted, features: float32, one row per image."""
        rows = pixels.flatten(2).float().mul_(self._scale).add_(self._shift)
        batch = rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)  # in channels-last order
        reduced = self._precision != torch.float32
        outputs = []
        with torch.autocast(pixels.device.type, self._precision, reduced):
            if self._stages is None:
                embedding = self._visual(batch)
                if isinstance(embedding, tuple):
                    embedding = embedding[0]  # CoCa's tower also returns its tokens
            else:
                embedding, outputs = stages.embed(self._visual, batch, self._stages)
        unit = functional.normalize(embedding.float(), dim=-1)
        if not self._with_features:
            return (unit,)
        return unit, stages.unit_means(outputs) if outputs else unit.clone()


@torch.no_grad()
def cast_matrices(model: nn.Module, precision: torch.dtype) -> None:
    """Cast, in place, the weights that autocast would cast in every call: the same function.

    Normalisation layers and loose parameters stay float32, as autocast has them.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(precision)
