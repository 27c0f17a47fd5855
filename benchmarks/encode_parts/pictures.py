"""Pictures to encode, drawn once and kept, and manifests that name them."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from benchmarks.encode_parts import processes
from benchmarks.textures import foliage, jpeg

PER_CREATOR = 15
SIDE = 1080
SMALL_SIDE = 64
CHUNK = 200


def photographs(cache: Path, count: int) -> list[Path]:
    """Return JPEGs of 1,080 x 1,080 px like photographs, 200 to 300 KB each (quality 90)."""
    return _drawn(cache / f"photographs-{SIDE}", count, _draw_photograph)


def small(cache: Path, count: int) -> list[Path]:
    """Return JPEGs of 64 x 64 px, about 1 KB each."""
    return _drawn(cache / f"small-{SMALL_SIDE}", count, _draw_small)


def write_manifest(path: Path, files: Sequence[Path | str], *, times: int = 1) -> Path:
    """Write a manifest of images whose folder is their creator.

    Args:
        path: Of the manifest, Parquet.
        files: Paths or URIs.
        times: How often each file is named, by another creator each time.
    """
    uris = [str(file) for file in files] * times
    creators = [
        f"{uri.rsplit('/', 2)[-2]}-{number // len(files)}" for number, uri in enumerate(uris)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"creator_id": creators, "uri": uris}), path)
    return path


def _drawn(folder: Path, count: int, draw: Callable[[int], bytes]) -> list[Path]:
    """Return the first `count` pictures of a folder; draws those that are not there yet."""
    paths = [_path(folder, number) for number in range(count)]
    known = {name for _, _, names in os.walk(folder) for name in names}
    missing = [number for number, path in enumerate(paths) if path.name not in known]
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    if chunks:
        with processes.pool() as workers:
            list(workers.map(_draw_some, *zip(*((folder, c, draw) for c in chunks), strict=True)))
    return paths


def _path(folder: Path, number: int) -> Path:
    return folder / f"creator-{number // PER_CREATOR:05d}" / f"{number:06d}.jpg"


def _draw_some(folder: Path, numbers: Sequence[int], draw: Callable[[int], bytes]) -> None:
    for number in numbers:
        path = _path(folder, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".tmp")
        half.write_bytes(draw(number))
        half.rename(path)


def _draw_photograph(seed: int) -> bytes:
    """Draw edges between areas of detail at all scales, its amplitude falling with frequency."""
    rng = np.random.default_rng(seed)
    image = foliage(rng, (SIDE, SIDE), falloff=1.7)
    canvas = ImageDraw.Draw(image, "RGBA")
    for _ in range(8):
        left, top = rng.integers(0, SIDE - 100, 2)
        wide, high = rng.integers(60, SIDE // 3, 2)
        box = (int(left), int(top), int(left + wide), int(top + high))
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        outline = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
        outline(box, fill=(red, green, blue, 128))
    return jpeg(image)


def _draw_small(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(coarse).resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
