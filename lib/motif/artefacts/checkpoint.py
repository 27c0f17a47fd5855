"""SAME checkpoints: model.safetensors, config.json, metrics.json, and run.json last."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from motif import space as spaces
from motif import splits, storage
from motif.artefacts import run
from motif.errors import InputError
from motif.model import PaperNetwork, SameNetwork, WhitenedEmbedding
from motif.space import Space
from motif.whitening import Whitening

ARTEFACT = run.CHECKPOINT
OWNED = ("model.safetensors", "config.json", "metrics.json", "_train")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is needed, beside the weights, to use a checkpoint."""

    architecture: str
    """`same`; `whitening` where the network was no better; `mean` (an identity in its place) where
    the whitening was worse than the plain mean; `paper`, which is kept as it is."""
    input_column: str
    """Column of EMBEDDINGS that it reads: `embedding` or `features`."""
    input_dim: int
    dim: int
    hidden_dim: int
    test_fraction: float
    validation_fraction: float
    test_fold: int


def write_weights(
    output: str, model: torch.nn.Module, config: CheckpointConfig, metrics: dict[str, Any]
) -> None:
    """Write all but run.json."""
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    storage.write_bytes(storage.join(output, "model.safetensors"), save(weights))
    storage.write_json(storage.join(output, "config.json"), asdict(config))
    storage.write_json(storage.join(output, "metrics.json"), metrics)


def weights_sha256(output: str) -> str:
    """Return the hash of the weights' file."""
    data = storage.read_bytes(storage.join(output, "model.safetensors"))
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A finished SAME checkpoint, loaded."""

    uri: str
    model: torch.nn.Module
    config: CheckpointConfig
    encoder_space: Space
    fingerprint: str
    """Of the space that it maps into."""
    metrics: dict[str, Any]
    run_id: str

    @classmethod
    def open(cls, uri: str) -> "Checkpoint":
        """Load it.

        Raises:
            InputError: Absent, unfinished, damaged, or not what run.json says.
        """
        uri = storage.absolute(uri)
        record = run.read(uri, ARTEFACT)
        if not isinstance(record.get("space"), dict) or "encoder" not in record["space"]:
            raise InputError(f"{uri}/run.json names no space: it was edited; train again")
        try:
            config = CheckpointConfig(**storage.read_json(storage.join(uri, "config.json")))
        except TypeError as error:
            raise InputError(f"{uri}/config.json is not a SAME configuration: {error}") from error
        try:
            data = storage.read_bytes(storage.join(uri, "model.safetensors"))
        except FileNotFoundError as error:
            raise InputError(f"{uri}/model.safetensors is gone; train again") from error
        digest = hashlib.sha256(data).hexdigest()
        encoder_space = Space.from_json(record["space"]["encoder"])
        fingerprint = spaces.same_fingerprint(encoder_space, digest)
        if fingerprint != record["space"]["fingerprint"]:
            raise InputError(
                f"{uri}/model.safetensors is not the file that run.json describes; train again"
            )
        model = build_model(config)
        try:
            model.load_state_dict(load(data))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{uri}: weights do not fit config.json: {reason}") from error
        return cls(
            uri=uri,
            model=model.eval(),
            config=config,
            encoder_space=encoder_space,
            fingerprint=fingerprint,
            metrics=storage.read_json(storage.join(uri, "metrics.json")),
            run_id=record["run_id"],
        )

    def split_of(self, creator_id: str) -> str:
        """Return which split a creator was in when this was trained."""
        return splits.split_of(
            creator_id,
            test_fraction=self.config.test_fraction,
            validation_fraction=self.config.validation_fraction,
            test_fold=self.config.test_fold,
        )

    def whitening(self) -> WhitenedEmbedding:
        """Return the whitening alone, whichever architecture this is."""
        if isinstance(self.model, SameNetwork | PaperNetwork):
            return self.model.whitened
        assert isinstance(self.model, WhitenedEmbedding)
        return self.model


def build_model(config: CheckpointConfig) -> torch.nn.Module:
    """Return a model of the configured shape, with weights still to be loaded.

    Raises:
        InputError: The architecture is none that we know.
    """
    empty = Whitening(torch.zeros(config.input_dim), torch.zeros(config.input_dim, config.dim))
    if config.architecture in ("whitening", "mean"):
        return WhitenedEmbedding(empty)
    if config.architecture == "same":
        return SameNetwork(empty, hidden_dim=config.hidden_dim)
    if config.architecture == "paper":
        return PaperNetwork(empty, hidden_dim=config.hidden_dim)
    raise InputError(f"checkpoint of unknown architecture {config.architecture!r}")
