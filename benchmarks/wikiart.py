"""Two-fold cross-validation over the artists of a WikiArt sample, through the command line.

    .venv/bin/python benchmarks/wikiart.py --images MANIFEST --output FOLDER

Encodes once with the lite encoder, trains on each half of the artists by hash, tests on the other,
and prints the README's table (mean of the folds), the seconds of each job, and the peak of the
memory of all processes together (proportional set size, so that shared pages count once).
Jobs that have finished are not repeated.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from peak_memory import PeakMemory

REPOSITORY = Path(__file__).resolve().parent.parent
SIZES = (1, 3, 5, 10)


def run_job(name: str, output: Path, *arguments: str) -> tuple[float, int]:
    """Run a job unless it has finished; return its wall-clock seconds and peak bytes."""
    record = output / "run.json"
    if record.exists():
        return json.loads(record.read_text())["seconds"]["total"], 0
    command = [sys.executable, "-m", f"jobs.{name}", "--output", str(output), *arguments]
    start = time.perf_counter()
    with PeakMemory() as memory:
        subprocess.run(command, cwd=REPOSITORY, check=True)
    return time.perf_counter() - start, memory.bytes


def folds(output: Path) -> list[list[dict]]:
    """Return each fold's `creator_similarity`."""
    found = []
    for fold in (0, 1):
        metrics = json.loads((output / f"evaluation-{fold}" / "metrics.json").read_text())
        found.append(metrics["creator_similarity"])
    return found


def table(results: Sequence[Sequence[dict]]) -> str:
    """Return the hit rates at 1 / at 10 as Markdown, averaged over folds."""
    lines = ["| vectors | " + " | ".join(f"n = {n}" for n in SIZES) + " |"]
    lines.append("|---|" + "---|" * len(SIZES))
    for vectors in ("mean", "whitened", "same"):
        for csls in (False, True):
            cells = []
            for size in SIZES:
                rows = [
                    row
                    for fold in results
                    for row in fold
                    if (row["vectors"], row["csls"], row["images_per_side"])
                    == (vectors, csls, size)
                ]
                at = {k: sum(r["hit_rate"][k] for r in rows) / len(rows) for k in ("1", "10")}
                error = sum(r["standard_error"] ** 2 for r in rows) ** 0.5 / len(rows)
                cells.append(f"{at['1']:.3f} ± {error:.3f} / {at['10']:.3f}")
            name = vectors + (" + CSLS" if csls else "")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="manifest with creator_id and uri")
    parser.add_argument("--output", type=Path, required=True, help="folder for all artefacts")
    parser.add_argument("--input", default="features", choices=("embedding", "features"))
    arguments = parser.parse_args()
    base = arguments.output.absolute()
    images = str(Path(arguments.images).absolute())
    embeddings = base / "embeddings"
    costs = {
        "encode_images": run_job(
            *("encode_images", embeddings, "--images", images, "--encoder", "lite")
        )
    }
    output = base / arguments.input
    for fold in (0, 1):
        model, report = output / f"same-{fold}", output / f"evaluation-{fold}"
        costs[f"train_same, fold {fold}"] = run_job(
            *("train_same", model, "--embeddings", str(embeddings), "--input", arguments.input),
            *("--test-fraction", "0.5", "--test-fold", str(fold)),
        )
        costs[f"evaluate, fold {fold}"] = run_job(
            *("evaluate", report, "--embeddings", str(embeddings), "--model", str(model)),
        )
    sys.stdout.write(table(folds(output)) + "\n\n")
    for name, (seconds, peak) in costs.items():
        memory = f", {peak / 1e9:.1f} GB at most" if peak else ", run before"
        sys.stdout.write(f"{name}: {seconds:.0f} s{memory}\n")


if __name__ == "__main__":
    main()
