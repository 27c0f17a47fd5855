"""What a training run can be told."""

from dataclasses import dataclass
from typing import Literal

from motif.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What a training run can be told; the defaults are from benchmarks.quality."""

    architecture: Literal["same", "whitening", "paper"] = "same"
    """`same`: the network on whitened input, or the whitening where the network is no better.
    `whitening`: that alone. `paper`: a plain MLP, whether it is better or not."""
    dim: int = 512
    """Length of SAME vectors; that of the input where that is less."""
    hidden_dim: int = 512
    dropout: float = 0.2
    margin: float = 0.2
    """Required gap between positives and negatives, in cosine."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    creators_per_batch: int = 64
    """Of all workers together."""
    set_sizes: tuple[int, ...] = (1, 2, 4)
    """A batch compares sets of this many images, two of each creator, as creators are compared in
    use; the size is drawn anew for each batch."""
    steps: int = 2000
    """At most; training stops earlier when validation has stopped to improve."""
    validate_every: int = 20
    patience: int = 5
    """Validations without improvement after which training stops."""
    averaging: float = 0.95
    """Decay, per step, of the moving average of the weights that is validated and kept."""
    seed: int = 0

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            InputError: Names the flag and the value.
        """
        for name in ("dim", "hidden_dim", "steps", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        if not 0 < self.margin <= 2:
            raise InputError(f"--margin {self.margin}: expected a cosine gap in (0, 2]")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout {self.dropout}: expected [0, 1)")
        if not self.learning_rate > 0:
            raise InputError(f"--learning-rate {self.learning_rate}: expected more than 0")
        if self.creators_per_batch < 2:
            raise InputError(f"--creators-per-batch {self.creators_per_batch}: at least 2")
        if not self.set_sizes or min(self.set_sizes) < 1:
            raise InputError(f"--set-sizes {self.set_sizes}: expected numbers from 1")
        if not 0 <= self.averaging < 1:
            raise InputError(f"--averaging {self.averaging}: expected [0, 1)")
        if not self.weight_decay >= 0:
            raise InputError(f"--weight-decay {self.weight_decay}: expected 0 or more")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")
