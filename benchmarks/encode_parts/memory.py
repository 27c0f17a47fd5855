"""Peak memory of a job over ten times as many images."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.encode_parts import encoders, pictures
from benchmarks.encode_parts.job import encode_images
from benchmarks.measurement import Measurement, spread

BAR = 1.15


def measure(cache: Path, *, images: int, repeats: int) -> Iterator[Measurement]:
    """Encode `images` small pictures, and a tenth of them, with the stub."""
    files = pictures.small(cache, images)
    flag = encoders.flag(encoders.STUB, cache)
    output = cache / "outputs" / "memory"
    peaks: dict[int, list[float]] = {images // 10: [], images: []}
    seconds: dict[int, float] = {}
    for _ in range(repeats):
        for count, found in peaks.items():
            path = cache / f"small-{count}.parquet"
            manifest = pictures.write_manifest(path, files[:count])
            run = encode_images(manifest, output, flag, watch_memory=True)
            found.append(run.peak_bytes / 1e9)
            seconds[count] = run.seconds
    few, many = (statistics.median(found) for found in peaks.values())
    yield Measurement(
        part="memory",
        name=f"peak of {images:,} images / of {images // 10:,}",
        value=many / few,
        at_most=BAR,
        figures={
            "gb_in_all_processes": {str(count): spread(found) for count, found in peaks.items()},
            "last_run_seconds": {str(count): round(took, 1) for count, took in seconds.items()},
        },
    )
