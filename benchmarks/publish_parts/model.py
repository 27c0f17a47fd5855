"""A SAME checkpoint for the made-up archive, as train_same leaves one."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from motif import schemas
from motif import space as spaces
from motif.artefacts import checkpoint, run
from motif.artefacts.checkpoint import CheckpointConfig
from motif.artefacts.embeddings import Embeddings
from motif.model import SameNetwork, as_inputs
from motif.whitening import fit

DIM, HIDDEN_DIM = 256, 512


@dataclass(frozen=True)
class MadeBy:
    """What a job's configuration leaves in run.json."""

    seed: int = 0


def make(cache: Path, archive: Path) -> Path:
    """Return a finished checkpoint: a whitening fitted to a bucket, a network that is no zero."""
    output = cache / f"publish-model-{archive.name}"
    if (output / run.RUN_FILE).exists():
        return output
    shutil.rmtree(output, ignore_errors=True)
    opened = Embeddings.open(str(archive))
    rows = opened.read_bucket(0, ["creator_id", "features"])
    creator = rows["creator_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    inputs = as_inputs(torch.tensor(schemas.matrix(rows["features"])))
    whitening = fit(inputs, torch.tensor(creator).long(), keep=DIM)
    network = SameNetwork(whitening, hidden_dim=HIDDEN_DIM)
    torch.nn.init.normal_(network.last.weight, std=0.002)
    settings = CheckpointConfig(
        architecture="same",
        input_column="features",
        input_dim=inputs.shape[1],
        dim=DIM,
        hidden_dim=HIDDEN_DIM,
        test_fraction=0.2,
        validation_fraction=0.1,
        test_fold=0,
    )
    checkpoint.write_weights(str(output), network, settings, {"reason": "made up"})
    digest = checkpoint.weights_sha256(str(output))
    run.Recorder(checkpoint.ARTEFACT, MadeBy()).finish(
        str(output),
        counts={},
        space={
            "fingerprint": spaces.same_fingerprint(opened.space, digest),
            "same_sha256": digest,
            "encoder": opened.space.to_json(),
        },
    )
    return output
