"""The whole pipeline against its two halves alone, in steady state.

E is the bare encoder on all cores, D bare fetch, decode and resize on all cores, P the job's
`stages.images_per_second`. Both halves share the cores, so that nothing can beat 1/(1/E + 1/D)
by more than what the pipeline decodes while the encoder starts. `marginal` is free of that: the
images/s by which a run over every picture twice takes longer than one over every picture once.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.encode_parts import encoders, pictures
from benchmarks.encode_parts.job import Finished, encode_images
from benchmarks.encode_parts.rates import Decoders, encoder_images_per_second
from benchmarks.measurement import Measurement, spread
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve

BAR, STUB_BAR = 0.95, 0.8
BATCH = 64


def measure(
    cache: Path, *, images: int, names: Sequence[str], repeats: int, flags: Sequence[str]
) -> Iterator[Measurement]:
    """Measure each encoder; what is compared takes turns, so that a busy machine slows all.

    Args:
        cache: For pictures, weights and outputs.
        images: JPEGs of 1,080 px.
        names: Of encoders.
        repeats: Turns.
        flags: For encode_images, such as `--compile`.
    """
    files = pictures.photographs(cache, images)
    once = pictures.write_manifest(cache / f"photographs-{images}.parquet", files)
    twice = pictures.write_manifest(cache / f"photographs-{images}-twice.parquet", files, times=2)
    output = cache / "outputs" / "pipeline"
    for name in names:
        flag = encoders.flag(name, cache)
        encoder = Encoder(resolve(flag), compile="--compile" in flags, features=True)
        rates: dict[str, list[float]] = {}
        last = None
        with Decoders(encoder.space.preprocess) as decoders:
            for _ in range(repeats):
                bare = encoder_images_per_second(
                    encoder, files[0], batch_size=BATCH, images=min(images, 512)
                )
                last = encode_images(once, output, flag, *flags)
                double = encode_images(twice, output, flag, *flags)
                turn = {
                    "D": decoders.images_per_second(files),
                    "D_full_decode": decoders.images_per_second(files, full=True),
                    "E": bare,
                    **_rates(last, images),
                    "marginal": images / max(double.seconds - last.seconds, 0.001),
                }
                for key, value in turn.items():
                    rates.setdefault(key, []).append(value)
        yield _judge(name, rates, last)


def _rates(run: Finished, images: int) -> dict[str, float]:
    stages = run.record["stages"]
    return {
        "P": stages["images_per_second"],
        "P_with_startup": stages["images_per_second_with_startup"],
        "P_whole_process": images / run.seconds,
    }


def _judge(name: str, rates: dict[str, list[float]], last: Finished | None) -> Measurement:
    median = {key: statistics.median(values) for key, values in rates.items()}
    both = 1 / (1 / median["E"] + 1 / median["D"])
    ideal = median["D"] if name == encoders.STUB else both
    stages: dict[str, Any] = last.record["stages"] if last else {}
    return Measurement(
        part="pipeline",
        name=f"{name}: P / D" if name == encoders.STUB else f"{name}: P x (1/E + 1/D)",
        value=median["P"] / ideal,
        at_least=STUB_BAR if name == encoders.STUB else BAR,
        figures={
            "images_per_second": {key: spread(values) for key, values in rates.items()},
            "ideal": round(ideal, 2),
            "marginal_to_ideal": round(median["marginal"] / ideal, 3),
            "precision": last.record["precision"] if last else None,
            "startup_seconds": stages.get("startup_seconds"),
            "stages": stages.get("stages"),
            "bottleneck": stages.get("bottleneck", {}).get("verdict"),
        },
    )
