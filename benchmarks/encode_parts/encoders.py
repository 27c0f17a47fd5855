"""The encoders that are measured, by name: `lite`, `stub`, or an architecture of open_clip's."""

from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from tests import tiny_encoder

LITE, STUB = "lite", "stub"


def flag(name: str, cache: Path) -> str:
    """Return what `--encoder` takes; random weights are written once, since no hub is needed."""
    if name == LITE:
        return LITE
    if name == STUB:
        folder = cache / "stub-encoder"
        built = (folder / "open_clip_model.safetensors").exists()
        return f"local-dir:{folder}" if built else tiny_encoder.build(folder)
    return f"{name}/{random_weights(name, cache)}"


def random_weights(architecture: str, cache: Path) -> Path:
    """Return a checkpoint with open_clip's own initial weights."""
    path = cache / f"{architecture}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        state = open_clip.create_model(architecture).state_dict()
        half = path.with_suffix(".tmp")
        save_file({name: value.contiguous() for name, value in state.items()}, half)
        half.rename(path)
    return path
