"""What is asked of Ray where nodes have GPUs: a Ray that was told so, without a GPU in it."""

import os
import subprocess
import sys

import pytest

from motif.artefacts.embeddings import Embeddings
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.table import CreatorTable
from tests import tiny_encoder
from tests.local_ray.test_publish import ROOT
from tests.synthetic import write_checkpoint

# Of a process of its own, as Ray is told of GPUs when it starts.
SCRIPT = """
import sys
import ray
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
from jobs import encode_images, publish_creators
from motif.on_ray.encode import Resources
assert Resources.of_cluster(encoders_per_gpu=2).encoders == 2
images, folder, encoder, model = sys.argv[1:]
assert ray.cluster_resources()["GPU"] == 1
encode_images.main(encode_images.Config(
    images=images, output=f"{folder}/embeddings", encoder=encoder, encoders_per_gpu=2))
"""
PUBLISH = """
publish_creators.main(publish_creators.Config(
    embeddings=f"{folder}/embeddings", model=model, table=f"{folder}/db/creators.lance",
    adjectives=f"{folder}/words.txt"))
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "disabled"}


def test_encoders_and_publishers_take_gpus(library, tmp_path, environment):
    encoder = tiny_encoder.build(tmp_path / "encoder")
    model = write_checkpoint(tmp_path / "same", Encoder(resolve(encoder)).space)
    (tmp_path / "words.txt").write_text("vivid\n")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT + PUBLISH, str(library), str(tmp_path), encoder, model],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert Embeddings.open(str(tmp_path / "embeddings")).counts["embedded"] == 12
    assert len(CreatorTable.open(str(tmp_path / "db" / "creators.lance"))) == 3
