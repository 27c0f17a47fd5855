"""Writes the demo's creators: a folder of images for each, and the manifest of their truth."""

import csv
import io
import json
import logging
import math
import os
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from motif.demo_creators import names
from motif.demo_creators.finish import finish
from motif.demo_creators.objects import OBJECTS
from motif.demo_creators.scenes import scene
from motif.demo_creators.themes import ADJECTIVES, Theme, theme_of

log = logging.getLogger(__name__)

RENDERER = 1
"""Raise it when the same seed no longer draws the same images."""
LONGER_SIDE = (256, 1280)
"""Bounds of every image's longer side, in pixels."""

_SHAPES = (0.667, 0.75, 0.8, 1.0, 1.25, 1.333, 1.5)
_PNG_LONGEST = 640
_SOFT_LONGEST = 420


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of the plan, decided before anything is drawn."""

    creator_id: str
    uri: str
    """Path of the image relative to the folder, with forward slashes."""
    object: str
    size: tuple[int, int]
    """Width and height in pixels."""
    theme: Theme
    seed: tuple[int, ...]
    """Seeds the drawing, so that it depends on no other picture."""


@dataclass(frozen=True)
class _Parameters:
    creators: int
    images_per_creator: int
    seed: int
    renderer: int = RENDERER


def render_creators(
    folder: Path,
    *,
    creators: int = 60,
    images_per_creator: int = 24,
    seed: int = 0,
    processes: int | None = None,
) -> Path:
    """Draw every creator's images into `folder`, or return at once if they are there.

    Args:
        folder: Created if missing; pictures of an earlier render with other parameters are
            removed from it.
        creators: How many creators, from 1 to 576.
        images_per_creator: Images of each creator, at least 1.
        seed: At least 0; images depend on it and on nothing else, `processes` included.
        processes: Spawned workers; the number of cores if None. With 1, draws in this process.

    Returns:
        Path of `manifest.csv`, which is written last: if it exists, all images do.

    Raises:
        ValueError: If a number is out of its range.
    """
    parameters = _checked(_Parameters(creators, images_per_creator, seed))
    processes = processes if processes is not None else os.cpu_count() or 1
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    manifest, record = folder / "manifest.csv", folder / "rendered.json"
    if manifest.exists() and _recorded(record).get("parameters") == asdict(parameters):
        log.info("%s already holds %d creators", folder, creators)
        return manifest
    pictures = plan(creators=creators, images_per_creator=images_per_creator, seed=seed)
    _clear(folder)
    ids = sorted({picture.creator_id for picture in pictures})
    for creator_id in ids:
        (folder / creator_id).mkdir(parents=True, exist_ok=True)
    entry = {"parameters": asdict(parameters), "creators": ids}
    _replace(record, json.dumps(entry, indent=1) + "\n")
    if processes == 1:
        for picture in pictures:
            draw(picture, folder)
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            # list() re-raises a worker's error here.
            list(pool.map(draw, pictures, [folder] * len(pictures), chunksize=8))
    _replace(manifest, _manifest(pictures))
    log.info("rendered %d images of %d creators into %s", len(pictures), creators, folder)
    return manifest


def plan(*, creators: int, images_per_creator: int, seed: int) -> list[Picture]:
    """Decide every picture: its creator, object, size and format.

    Returns:
        Pictures sorted by creator id, then by number; `creators * images_per_creator` of them.
    """
    pictures = []
    for creator, creator_id in enumerate(names.creator_ids(creators, seed)):
        theme = theme_of(creator, seed)
        rng = np.random.default_rng([seed, 3, creator])
        for nth, name in enumerate(_objects(images_per_creator, rng)):
            suffix = rng.choice(["jpg", "webp", "png"], p=[0.6, 0.25, 0.15])
            picture = Picture(
                creator_id=creator_id,
                uri=f"{creator_id}/{nth:02d}-{name}.{suffix}",
                object=name,
                size=_size(theme, _PNG_LONGEST if suffix == "png" else LONGER_SIDE[1], rng),
                theme=theme,
                seed=(seed, 4, creator, nth),
            )
            pictures.append(picture)
    return sorted(pictures, key=lambda picture: picture.uri)


def draw(picture: Picture, folder: Path) -> None:
    """Draw one picture and write it below `folder`, whose creator folders exist."""
    rng = np.random.default_rng(picture.seed)
    width, height = picture.size
    if picture.theme.focus == "blurry":
        # Blur hides what a larger raster would show.
        shrink = min(1.0, _SOFT_LONGEST / max(width, height))
        width, height = round(width * shrink), round(height * shrink)
    svg = scene(picture.theme, picture.object, (width, height), rng)
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    raster = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    image = finish(raster, picture.size, picture.theme, rng)
    path = folder / picture.uri
    match path.suffix:
        case ".png":
            image.save(path, compress_level=3)
        case ".webp":
            # Lossy WebP tints grey.
            grey = picture.theme.tone == "mono"
            image.save(path, quality=86 if not grey else 30, lossless=grey, method=1)
        case _:
            image.save(path, quality=90)


def _checked(parameters: _Parameters) -> _Parameters:
    if not 1 <= parameters.creators <= names.LIMIT:
        raise ValueError(f"creators must be 1 to {names.LIMIT}, got {parameters.creators}")
    if parameters.images_per_creator < 1:
        least = parameters.images_per_creator
        raise ValueError(f"images_per_creator must be at least 1, got {least}")
    if parameters.seed < 0:
        raise ValueError(f"seed must be at least 0, got {parameters.seed}")
    return parameters


def _objects(count: int, rng: np.random.Generator) -> list[str]:
    """A random draw from the common list; none repeats before all were drawn."""
    everything = list(OBJECTS)
    rounds = math.ceil(count / len(everything))
    drawn = np.concatenate([rng.permutation(len(everything)) for _ in range(rounds)])[:count]
    return [everything[index] for index in drawn]


def _size(theme: Theme, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height in pixels; small images are the more frequent ones."""
    shape = theme.shape if rng.random() < 0.6 else _SHAPES[rng.integers(len(_SHAPES))]
    longer = round(LONGER_SIDE[0] * (longest / LONGER_SIDE[0]) ** (rng.random() ** 2.2))
    shorter = round(longer * min(shape, 1 / shape))
    return (longer, shorter) if shape >= 1 else (shorter, longer)


def _recorded(record: Path) -> dict[str, object]:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _clear(folder: Path) -> None:
    """Remove an earlier render: the manifest first, then only files that we named."""
    (folder / "manifest.csv").unlink(missing_ok=True)
    earlier = _recorded(folder / "rendered.json").get("creators", [])
    for creator_id in earlier if isinstance(earlier, list) else []:
        if not re.fullmatch(r"[a-z]+-[a-z]+", str(creator_id)):
            continue
        for image in (folder / creator_id).glob("[0-9][0-9]*-*"):
            image.unlink()


def _manifest(pictures: Iterable[Picture]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["creator_id", "uri", "object", *ADJECTIVES])
    for picture in pictures:
        truth = picture.theme.adjectives()
        holds = [str(truth[adjective]).lower() for adjective in ADJECTIVES]
        writer.writerow([picture.creator_id, picture.uri, picture.object, *holds])
    return out.getvalue()


def _replace(path: Path, text: str) -> None:
    """Write `path` whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
