"""clip-retrieval's `inference` over the same JPEGs, with the same weights, on the same cores.

It lives in a virtual environment of its own, which is made once (5 GB). It encodes in float32 on
CPUs; we, by default, in what the hardware is fast at, and in float32 for comparison. Its images/s
inside are by its own clocks: samples / (time to read + infer + write), the loading of the model
apart. Of the settings tried, its fastest counts.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.encode_parts import encoders, pictures, processes
from benchmarks.encode_parts.job import encode_images
from benchmarks.measurement import Measurement, spread
from motif import schemas
from motif.artefacts.embeddings import Embeddings

BAR = 2.5
ARCHITECTURE = "ViT-B-32"
PACKAGES = ("clip-retrieval==2.45.0", "setuptools<81")
OURS = {"float32": ["--float32"], "default": [], "compiled": ["--compile"]}


@dataclass(frozen=True)
class _Setting:
    batch_size: int
    workers: int


def measure(cache: Path, *, images: int, repeats: int) -> Iterator[Measurement]:
    """Take turns with it."""
    program = _installed(cache / "peer-venv")
    weights = encoders.random_weights(ARCHITECTURE, cache)
    files = _folder(cache / f"peer-images-{images}", pictures.photographs(cache, images))
    manifest = pictures.write_manifest(cache / f"peer-{images}.parquet", files)
    settings = (_Setting(256, 4), _Setting(64, processes.cores()))
    theirs: dict[_Setting, list[tuple[float, float]]] = {setting: [] for setting in settings}
    ours: dict[str, list[tuple[float, float]]] = {name: [] for name in OURS}
    output, their_output = (cache / "outputs" / name for name in ("ours", "peer"))
    cosines: dict[str, list[float]] = {name: [] for name in OURS}
    for _ in range(repeats):
        for setting, found in theirs.items():
            found.append(_run(program, files, weights, their_output, setting))
        for name, flags in OURS.items():
            run = encode_images(manifest, output, f"{ARCHITECTURE}/{weights}", *flags)
            rate = run.record["stages"]["images_per_second"]
            ours[name].append((rate, run.seconds))
            cosines[name].append(_lowest_cosine(output, their_output))
    fastest = max(theirs.values(), key=lambda found: statistics.median(rate for rate, _ in found))
    quickest = min(theirs.values(), key=lambda found: statistics.median(took for _, took in found))
    inside = {name: statistics.median(rate for rate, _ in ours[name]) for name in OURS}
    whole = statistics.median(took for _, took in ours["default"])
    their_inside = statistics.median(rate for rate, _ in fastest)
    their_whole = statistics.median(took for _, took in quickest)
    all_runs = {f"clip-retrieval, {setting}": found for setting, found in theirs.items()} | {
        f"ours, {name}": found for name, found in ours.items()
    }
    figures = {
        name.replace("_Setting", ""): {
            "images_per_second": spread([rate for rate, _ in found]),
            "process_seconds": spread([took for _, took in found]),
        }
        for name, found in all_runs.items()
    }
    yield Measurement(
        part="peer",
        name=f"{ARCHITECTURE}, {images:,} images: our images/s / clip-retrieval's, start-up apart",
        value=inside["default"] / their_inside,
        at_least=BAR,
        figures={
            **figures,
            "ours_to_theirs": {
                name: round(rate / their_inside, 3) for name, rate in inside.items()
            },
            "lowest_cosine_of_the_vectors": {
                name: round(min(found), 5) for name, found in cosines.items()
            },
        },
    )
    yield Measurement(
        part="peer",
        name=f"{ARCHITECTURE}, {images:,} images: clip-retrieval's seconds / ours, whole process",
        value=their_whole / whole,
        at_least=1.0,
        figures={"process_seconds": {"ours": whole, "clip-retrieval": their_whole}},
    )


def _installed(folder: Path) -> Path:
    """Return its program; installs it first where it is not there."""
    program = folder / "bin" / "clip-retrieval"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *PACKAGES], check=True, stdout=sys.stderr)
    return program


def _folder(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Link the pictures into a folder that holds nothing else, since it takes all of a folder."""
    links = []
    for file in files:
        link = folder / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(file, link)
        links.append(link)
    return links


def _run(
    program: Path, files: Sequence[Path], weights: Path, output: Path, setting: _Setting
) -> tuple[float, float]:
    """Return its images/s inside, and the seconds of its whole process."""
    shutil.rmtree(output, ignore_errors=True)
    log = output.with_name("peer.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(program), "inference"]
    flags = {
        "input_dataset": files[0].parents[1],
        "output_folder": output,
        "clip_model": f"open_clip:{ARCHITECTURE}/{weights}",
        "enable_text": False,
        "enable_metadata": False,
        "batch_size": setting.batch_size,
        "num_prepro_workers": setting.workers,
    }
    command += [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    start = time.perf_counter()
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{log.read_text(errors='replace')[-2000:]}")
    stats = json.loads((output / "stats" / "0.json").read_text())
    if stats["sample_count"] != len(files):
        raise RuntimeError(f"clip-retrieval did {stats['sample_count']} of {len(files)} images")
    return stats["sample_count"] / stats["total_duration"], seconds


def _lowest_cosine(output: Path, their_output: Path) -> float:
    """Return how far the two are apart on the same picture at most: both did the same work."""
    [vectors] = (their_output / "img_emb").glob("*.npy")
    [names] = (their_output / "metadata").glob("*.parquet")
    rows = dict(
        zip(
            pq.read_table(names)["image_path"].to_pylist(),
            np.load(vectors).astype(np.float32),
            strict=True,
        )
    )
    table = Embeddings.open(str(output)).read(["uri", "embedding"])
    other = np.stack([rows[uri] for uri in table["uri"].to_pylist()])
    return float((schemas.matrix(table["embedding"]) * other).sum(axis=1).min())
