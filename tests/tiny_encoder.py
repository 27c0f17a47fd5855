"""A tiny CLIP of random weights: a real encoder whose computing costs next to nothing."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file


def build(folder: Path, *, image_size: int = 224, dim: int = 16, seed: int = 0) -> str:
    """Write the encoder as a folder in open_clip's `local-dir` form.

    Args:
        folder: Created; equal arguments write equal weights.
        image_size: Side of its images, in pixels; a multiple of 2.
        dim: Of its embeddings.
        seed: Of its weights; another seed is another space.

    Returns:
        What to pass as `--encoder`.
    """
    vision = {"image_size": image_size, "patch_size": image_size // 2}
    config = {
        "model_cfg": {
            "embed_dim": dim,
            "vision_cfg": {**vision, "layers": 1, "width": 32, "head_width": 16},
            "text_cfg": {
                **{"context_length": 77, "vocab_size": 49408},
                **{"width": 16, "heads": 2, "layers": 1},
            },
        },
        "preprocess_cfg": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder.absolute()}"
