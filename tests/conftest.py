"""What several test files share: drawn pictures, a manifest writer, one local Ray, one S3."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A token file anywhere in the home directory would turn authentication on (Ray 2.60).
os.environ["RAY_AUTH_MODE"] = "disabled"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Picture = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Draw a smooth, colourful picture that compresses well; equal seeds draw equal pictures."""

    def draw(seed: int = 0, *, width: int = 96, height: int = 80) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return draw


@pytest.fixture
def library(tmp_path: Path, picture: Picture) -> Path:
    """A folder of three creators with four JPEGs each."""
    root = tmp_path / "library"
    for creator in range(3):
        folder = root / f"creator-{creator}"
        folder.mkdir(parents=True)
        for image in range(4):
            picture(10 * creator + image).save(folder / f"{image}.jpg", quality=92)
    return root


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as `name`.csv, .jsonl or .parquet, by the suffix, and return the path."""

    def write(name: str, rows: list[dict[str, Any]], *, columns: list[str] | None = None) -> Path:
        path = tmp_path / name
        columns = columns or list(rows[0])
        match path.suffix:
            case ".csv":
                with path.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, columns)
                    writer.writeheader()
                    writer.writerows(rows)
            case ".jsonl":
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                path.write_text("".join(lines), encoding="utf-8")
            case ".parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server; its environment is set before Ray starts, so that workers see it too."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        yield endpoint
    server.stop()


# Of a module, not of the session: pytest keeps the exceptions of tests that expect one, and with
# them a failed pipeline's actors, whose sliver of a CPU two training workers would wait for.
@pytest.fixture(scope="module")
def ray_local(s3_endpoint: str) -> Iterator[None]:
    """One local Ray with exactly two CPUs for all tests that need Ray."""
    import ray

    from motif.on_ray import session

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        session.connect(num_cpus=2)
    assert ray.cluster_resources()["CPU"] == 2
    yield
    ray.shutdown()
