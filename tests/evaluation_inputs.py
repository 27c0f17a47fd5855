"""EMBEDDINGS, checkpoints and text encoders that `evaluate` is tested with."""

import dataclasses
import hashlib
import html.parser
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import evaluate as job
from motif import schemas
from motif import space as spaces
from motif.artefacts import checkpoint as checkpoints
from motif.artefacts import run
from motif.artefacts.checkpoint import Checkpoint, CheckpointConfig
from motif.artefacts.embeddings import Embeddings
from motif.evaluation import evaluate as evaluation
from motif.model import PaperNetwork, SameNetwork, WhitenedEmbedding
from motif.space import Preprocess, Space
from motif.whitening import Whitening
from tests import synthetic

DIM = 8
SPACE = Space(
    encoder="tiny",
    weights_sha256="0" * 64,
    preprocess=Preprocess(
        size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="b", resize_mode="shortest"
    ),
    dim=DIM,
)
NASTY = "\"><script>alert(1)</script>\n&amp;'{{ 7*7 }}"


@dataclasses.dataclass(frozen=True)
class MadeBy:
    encoder: str


def rows_of(creators: int, images: int, *, seed: int = 0) -> list[dict]:
    """Creators with a theme each; the adjective `vivid` holds for every third of them."""
    generator = np.random.default_rng(seed)
    rows = []
    for creator in range(creators):
        theme = generator.normal(size=DIM)
        theme[0] = 3 if creator % 3 == 0 else 0
        for image in range(images):
            vector = theme + 0.8 * generator.normal(size=DIM)
            name = f"{creator:03d}-{image:02d}"
            rows.append(
                {
                    "image_id": name,
                    "creator_id": f"creator-{creator:03d}",
                    "uri": f"/nowhere/{name}.jpg",
                    "version": None,
                    "posted_at": None,
                    "embedding": (vector / np.linalg.norm(vector)).tolist(),
                    "content_hash": hashlib.sha256(name.encode()).hexdigest()[:32],
                    "perceptual_hash": hashlib.sha256(name.encode()).hexdigest()[:16],
                    "is_vivid": creator % 3 == 0,
                    "is_dark": creator % 3 != 0,
                    "is_2d": True,
                }
            )
    return rows


def with_objects(rows: list[dict], objects: tuple = ("cat", "dog", "cup", "tree")) -> list[dict]:
    """Every creator shows one object after the other."""
    return [row | {"object": objects[i % len(objects)]} for i, row in enumerate(rows)]


def write_embeddings(
    output: Path,
    rows: list[dict],
    *,
    buckets: int = 2,
    space: Space = SPACE,
    encoder: str = "lite",
    objects: pa.DataType | None = None,
    features: pa.DataType | None = None,
) -> Embeddings:
    """Write rows; `objects` is the type of that column, `features` of their items; or none."""
    carried = [pa.field(n, pa.bool_()) for n in ("is_vivid", "is_dark", "is_2d")]
    if objects is not None:
        carried.append(pa.field("object", objects))
    if features is not None:
        carried.append(pa.field("features", pa.list_(features, DIM)))
    schema = schemas.embeddings(space.dim, carried=carried)
    table = schemas.conform(pa.Table.from_pylist(rows, schema=schema), schema)
    synthetic.write_embeddings(output, table, space, encoder=encoder, buckets=buckets)
    return Embeddings.open(str(output))


def write_checkpoint(
    output: Path,
    *,
    architecture: str = "same",
    space: Space = SPACE,
    test_fraction: float = 0.5,
    input_column: str = "embedding",
) -> Checkpoint:
    torch.manual_seed(0)
    scale = torch.diag(torch.linspace(0.5, 2, DIM))
    whitening = Whitening(torch.full((DIM,), 0.05), scale)
    model: torch.nn.Module = WhitenedEmbedding(whitening)
    if architecture == "same":
        model = SameNetwork(whitening, hidden_dim=4)
    if architecture == "paper":
        model = PaperNetwork(whitening, hidden_dim=4)
    for parameter in model.parameters():  # the whitening has none
        torch.nn.init.normal_(parameter, std=0.5)
    config = CheckpointConfig(
        architecture=architecture,
        input_column=input_column,
        input_dim=DIM,
        dim=DIM,
        hidden_dim=4,
        test_fraction=test_fraction,
        validation_fraction=0.2,
        test_fold=0,
    )
    curve = [{"step": s, "loss": 0.1, "validation_mrr": 0.5 + s / 100} for s in (1, 2, 3)]
    metrics = {"reason": "the <b>reason</b>", "curve": curve, "validation": {"mrr_whitening": 0.5}}
    checkpoints.write_weights(str(output), model, config, metrics)
    digest = checkpoints.weights_sha256(str(output))
    run.Recorder(checkpoints.ARTEFACT, MadeBy("")).finish(
        str(output),
        counts={},
        space={
            "fingerprint": spaces.same_fingerprint(space, digest),
            "encoder": space.to_json(),
        },
    )
    return Checkpoint.open(str(output))


def encode_texts(texts: list[str]) -> np.ndarray:
    """A text side: vivid is the first axis, dark points the wrong way, the rest is noise."""
    rows = []
    for text in texts:
        words = text.replace(" vivid", "").replace(" dark", "")
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
        row = np.random.default_rng(seed).normal(size=DIM)
        row[0] += 5 * (" vivid" in text) + 5 * (" dark" in text)
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows).astype(np.float32)


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "open_text_encoder", lambda *_: (None, "the hub is away"))


@pytest.fixture
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "open_text_encoder", lambda *_: (encode_texts, ""))


def run_job(tmp_path: Path, **flags) -> tuple[dict, dict, str]:
    """Run the job on tmp_path's emb and same; return run.json, metrics.json and the page."""
    output = tmp_path / "evaluation"
    config = {"embeddings": tmp_path / "emb", "model": tmp_path / "same", "output": output}
    record = job.main(job.Config(**{k: str(v) for k, v in config.items()}, **flags))
    metrics = json.loads((output / "metrics.json").read_text())
    return record, metrics, (output / "report.html").read_text("utf-8")


class Page(html.parser.HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())
