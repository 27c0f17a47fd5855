"""Where there is a CUDA device: the bare encoder, its feed, and the pipeline, in images/s."""

import logging
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.encode_parts import encoders, pictures
from benchmarks.encode_parts.job import encode_images
from benchmarks.encode_parts.rates import Decoders, encoder_images_per_second
from benchmarks.measurement import Measurement, spread
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve

log = logging.getLogger(__name__)

BAR = 0.8
ARCHITECTURES = ("ViT-B-32", "ViT-L-14")
JUDGED = "ViT-L-14"
BATCH = 256


def measure(
    cache: Path, *, images: int, times: int, repeats: int, flags: Sequence[str]
) -> Iterator[Measurement]:
    """Measure both architectures in bfloat16 with random weights.

    Args:
        cache: For pictures, weights and outputs.
        images: JPEGs of 1,080 px.
        times: How often the pipeline encodes each of them.
        repeats: Turns.
        flags: For encode_images, such as `--compile`.
    """
    if not torch.cuda.is_available():
        log.warning("no CUDA device is at hand: nothing of the part gpu was measured")
        return
    files = pictures.photographs(cache, images)
    name = f"photographs-{images}-times-{times}.parquet"
    manifest = pictures.write_manifest(cache / name, files, times=times)
    for architecture in ARCHITECTURES:
        flag = encoders.flag(architecture, cache)
        rates: dict[str, list[float]] = {"encoder": [], "feed": [], "pipeline": []}
        verdict = None
        for _ in range(repeats):
            # Loaded anew each time: the pipeline needs the device's memory.
            encoder = Encoder(
                resolve(flag),
                precision=torch.bfloat16,
                compile="--compile" in flags,
                features=True,
            )
            preprocess = encoder.space.preprocess
            bare = encoder_images_per_second(encoder, files[0], batch_size=BATCH, images=20 * BATCH)
            rates["encoder"].append(bare)
            del encoder
            torch.cuda.empty_cache()
            with Decoders(preprocess) as decoders:
                rates["feed"].append(decoders.images_per_second(files))
            run = encode_images(manifest, cache / "outputs" / "gpu", flag, *flags)
            rates["pipeline"].append(run.record["stages"]["images_per_second"])
            verdict = run.record["stages"]["bottleneck"]["verdict"]
        median = {key: statistics.median(values) for key, values in rates.items()}
        yield Measurement(
            part="gpu",
            name=f"{architecture}: pipeline / min(encoder, feed)",
            value=median["pipeline"] / min(median["encoder"], median["feed"]),
            at_least=BAR if architecture == JUDGED else None,
            figures={
                "images_per_second": {key: spread(values) for key, values in rates.items()},
                "images": images * times,
                "bottleneck": verdict,
            },
        )
