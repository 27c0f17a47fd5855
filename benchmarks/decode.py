"""Decoding: its speed, the embeddings it leads to, and the perceptual hash.

.venv/bin/python benchmarks/decode.py --wikiart FOLDER

Speed: one thread, JPEGs of 1,080 x 1,080 px (quality 90, 4:2:0), median of 15 turns, against
Pillow's full decode, open_clip's resize and ImageHash's pHash of the full picture.
Embeddings: the lite encoder, cosine to open_clip's own transform on the full decode.
Hashes: between copies and between different pictures of WikiArt (FOLDER has a `manifest.csv`).
"""

import argparse
import csv
import hashlib
import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import imagehash
import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from textures import TEXTURES, foliage, jpeg

from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.images.decode import decode
from motif.images.preprocess import SCALED_DECODE_MARGIN, to_pixels, wanted_side
from motif.space import Preprocess

TURNS = 15
THRESHOLDS = (0, 2, 4, 6, 8, 10)
# The last two are decoded at half size to 6 and 12 times the side of the lite encoder.
SIZES = ((1080, 1080), (1080, 1350), (2160, 2160), (3120, 3120), (6240, 6240))
BATCH = 32


def say(text: str) -> None:
    """Write one line of the result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def opened(data: bytes, side: int | None = None) -> Image.Image:
    """Decode with Pillow alone, DCT-scaled to `side` where given."""
    image = Image.open(io.BytesIO(data))
    if side is not None:
        image.draft(None, (side, side))
    image.load()
    return image.convert("RGB") if image.mode != "RGB" else image


def reference(preprocess: Preprocess) -> Callable[[Image.Image], np.ndarray]:
    """Return open_clip's transform up to its conversion to a tensor."""
    names = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
    config = PreprocessCfg(**{name: getattr(preprocess, name) for name in names})
    steps = image_transform_v2(config, is_train=False).transforms[:-2]

    def run(image: Image.Image) -> np.ndarray:
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return run


def milliseconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time one picture in turns, so that a busy machine slows all alike; return the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}


def speed(preprocess: Preprocess) -> None:
    """Print the stages with and without the hashes."""
    data = jpeg(foliage(np.random.default_rng(0), (1080, 1080), falloff=1.3))
    theirs = reference(preprocess)
    wanted = wanted_side(preprocess)

    def all_of_theirs() -> None:
        image = opened(data)
        theirs(image)
        imagehash.phash(image)
        hashlib.sha256(data).hexdigest()

    def ours(side: int) -> np.ndarray:
        return to_pixels(decode(data, shortest_side=side).image, preprocess)

    plain: dict[str, Callable[[], object]] = {
        "full decode, open_clip's resize": lambda: theirs(opened(data)),
        "DCT 1/2, open_clip's resize": lambda: theirs(opened(data, 540)),
        "full decode, our resize": lambda: to_pixels(opened(data), preprocess),
        "DCT 1/2, our resize": lambda: to_pixels(opened(data, 540), preprocess),
    }
    hashed: dict[str, Callable[[], object]] = {
        "full decode, open_clip's resize, full pHash": all_of_theirs,
        "as shipped (full decode at this size)": lambda: ours(wanted),
        "as shipped, but DCT 1/2": lambda: ours(540),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    say(f"speed, {len(data) / 1080**2:.2f} bytes per pixel, to {preprocess.size} px, one thread")
    for title, runs in (("without hashes", plain), ("with hashes", hashed)):
        say(f"  {title}")
        took = milliseconds(runs)
        base = next(iter(took.values()))
        for name, each in took.items():
            say(f"    {name:46} {each:6.2f} ms {1e3 / each:6.1f} images/s {base / each:5.2f} x")
    torch.set_num_threads(threads)


def cosines(encoder: Encoder, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """Return the cosine of each pair of inputs."""
    found = []
    for start in range(0, len(one), BATCH):
        first, second = (
            encoder.encode_images(np.stack(rows[start : start + BATCH])).embedding
            for rows in (one, other)
        )
        found.append((first * second).sum(axis=1))
    return np.concatenate(found)


def line(name: str, values: np.ndarray) -> None:
    """Print how low the cosines go."""
    say(f"  {name:50} median {np.median(values):.5f} minimum {values.min():.5f} n {len(values)}")


def textures(encoder: Encoder) -> None:
    """Print cosines over rendered pictures, per texture and per factor of the DCT."""
    preprocess = encoder.space.preprocess
    theirs = reference(preprocess)
    shipped: list[np.ndarray] = []
    by_margin: dict[tuple[str, int], list[np.ndarray]] = {}
    bits = []
    for size in SIZES:
        for name, draw in TEXTURES.items():
            data = jpeg(draw(np.random.default_rng(sum(size)), size))
            decoded = decode(data, shortest_side=wanted_side(preprocess)).image
            inputs = [theirs(opened(data)), to_pixels(decoded, preprocess)]
            factors = [n for n in (2, 4, 8) if min(size) // n >= preprocess.size]
            inputs += [to_pixels(opened(data, min(size) // n), preprocess) for n in factors]
            values = cosines(encoder, inputs[1:], inputs[:1] * (len(inputs) - 1))
            shipped.append(values[:1])
            bits.append((perceptual(data) ^ perceptual(data, min(size) // 2)).bit_count())
            for factor, value in zip(factors, values[1:], strict=True):
                margin = min(size) // factor // preprocess.size
                by_margin.setdefault((name, margin), []).append(value)
            say(f"  {name} {size[0]} x {size[1]}: {len(data) / size[0] / size[1]:.2f} bytes per px")
    line(f"as shipped (scaled from {SCALED_DECODE_MARGIN} x on)", np.concatenate(shipped))
    say(f"  bits of the pHash between DCT 1/2 and the full decode: {sorted(bits)}")
    for (name, margin), values in sorted(by_margin.items()):
        line(f"{name}, DCT-scaled to {margin} x the encoder's side", np.array(values))


def wikiart(encoder: Encoder, files: Sequence[bytes]) -> None:
    """Print cosines over paintings."""
    preprocess = encoder.space.preprocess
    theirs = reference(preprocess)
    ours = [
        to_pixels(decode(data, shortest_side=wanted_side(preprocess)).image, preprocess)
        for data in files
    ]
    line("WikiArt, as shipped", cosines(encoder, ours, [theirs(opened(data)) for data in files]))


def perceptual(data: bytes, side: int | None = None) -> int:
    """Return Motif's hash as a number."""
    return int(decode(data, shortest_side=side).perceptual_hash, 16)


def copies(data: bytes) -> dict[str, int]:
    """Return the hashes of a picture and of what reposting makes of it."""
    image = decode(data).image
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    return {
        "itself": perceptual(data),
        "ImageHash on the full picture": int(str(imagehash.phash(image)), 16),
        "DCT-scaled to 1/2": perceptual(data, min(image.size) // 2),
        "saved at quality 70": perceptual(jpeg(image, quality=70)),
        "half the size, quality 90": perceptual(jpeg(half)),
        "half the size, quality 70": perceptual(jpeg(half, quality=70)),
    }


def hashes(files: Sequence[bytes]) -> None:
    """Print, per threshold, the share of copies and of pairs of strangers that are matched."""
    unique = list({hashlib.sha256(data).digest(): data for data in files}.values())
    rows = [copies(data) for data in unique]
    found = {name: np.array([row[name] for row in rows], np.uint64) for name in rows[0]}
    own = found.pop("itself")
    say(f"  share of pairs at most this many bits apart: {THRESHOLDS}, of {len(own)} pictures")
    for name, other in found.items():
        apart = np.bitwise_count(own ^ other)
        shares = " ".join(f"{(apart <= bits).mean():8.4f}" for bits in THRESHOLDS)
        say(f"  {name:32} {shares}")
    matched = np.zeros(len(THRESHOLDS), np.int64)
    for index in range(len(own)):
        apart = np.bitwise_count(own[index + 1 :] ^ own[index])
        matched += [(apart <= bits).sum() for bits in THRESHOLDS]
    pairs = len(own) * (len(own) - 1) // 2
    shares = " ".join(f"{count / pairs:8.1e}" for count in matched)
    say(f"  {'different pictures':32} {shares}")
    say(f"  {'  as pairs of ' + str(pairs):32} {' '.join(f'{count:8}' for count in matched)}")


def main() -> None:
    """Print speed, cosines and hash tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wikiart", type=Path, help="folder with manifest.csv")
    parser.add_argument("--images", type=int, default=400, help="paintings for the cosines")
    options = parser.parse_args()
    encoder = Encoder(resolve("lite"))
    speed(encoder.space.preprocess)
    if options.wikiart:
        with (options.wikiart / "manifest.csv").open(encoding="utf-8") as manifest:
            uris = [row["uri"] for row in csv.DictReader(manifest)]
        files = [(options.wikiart / uri).read_bytes() for uri in uris]
        say("perceptual hash over WikiArt")
        hashes(files)
        say("cosine to open_clip's transform on the full decode")
        step = max(len(files) // options.images, 1)
        wikiart(encoder, files[::step][: options.images])
    textures(encoder)


if __name__ == "__main__":
    main()
