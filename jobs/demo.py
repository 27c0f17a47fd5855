"""The whole job on one machine: encode -> train -> publish -> evaluate -> query.

make demo [IMAGES=folder]
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import encode_images, evaluate, publish_creators, train_same
from motif import cli_output, command, storage
from motif.artefacts import run
from motif.artefacts.checkpoint import Checkpoint
from motif.demo_creators.render import render_creators
from motif.errors import InputError
from motif.images.manifest import read_images
from motif.splits import TEST
from motif.table import CreatorTable

log = logging.getLogger("motif.demo")

ARTEFACT = "demo"
TEST_FRACTION = 1 / 3
MAX_FAILED_FRACTION = 0.5  # a newcomer's folder may be in any state
SEED = 4  # of the creators that are drawn: the hash puts 20 of these 60 into the test third
ADJECTIVES_SHOWN = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show what Motif does, in a few minutes, on creators that it draws or on your own."""

    images: str = ""
    """Folder with one subfolder per creator, or a manifest; by default creators are drawn."""
    output: str = "demo-output"
    """Folder for all artefacts; an earlier demo's are replaced."""
    dry_run: bool = False
    """Say what would be done; write nothing."""
    json: bool = False
    """Print the record of the run on standard output, in place of the tables."""


def main(config: Config) -> dict[str, Any]:
    """Run every job with the lite encoder, then ask the table what a user would ask."""
    place = Path(config.output).absolute()
    if config.dry_run:
        return command.show_plan(plan_of(config, place), as_json=config.json)
    recorder = run.Recorder(ARTEFACT, config)
    # Nothing is removed here: each job replaces its own artefact, and drawn images are kept.
    run.claim(str(place), ARTEFACT, overwrite=True, owned=())
    images, carry = images_of(config, place)
    at = {
        name: str(place / name) for name in ("embeddings", "same", "creators.lance", "evaluation")
    }
    embeddings, same = at["embeddings"], at["same"]
    encoded = encode_images.main(
        encode_images.Config(
            images=images,
            output=embeddings,
            encoder="lite",
            carry=",".join(carry),
            max_failed_fraction=MAX_FAILED_FRACTION,
            overwrite=True,
        )
    )
    trained = train_same.main(
        train_same.Config(
            embeddings=embeddings, output=same, test_fraction=TEST_FRACTION, overwrite=True
        )
    )
    published = publish_creators.main(
        publish_creators.Config(embeddings=embeddings, model=same, table=at["creators.lance"])
    )
    steps = {"encode": encoded, "train": trained, "publish": published}
    report = str(Path(at["evaluation"]) / "report.html")
    try:
        steps["evaluate"] = evaluate.main(
            evaluate.Config(
                embeddings=embeddings, model=same, output=at["evaluation"], overwrite=True
            )
        )
        ending = f"The report to open: {report}\n"
    except InputError as error:
        # Too few creators to hold some out: the table is there all the same.
        report, ending = "", f"No report: {error}\n"
    if not config.json:
        sys.stdout.write(tables(at, measured=bool(report)) + "\n" + ending)
    recorder.seconds |= {name: step["seconds"]["total"] for name, step in steps.items()}
    return recorder.finish(
        str(place),
        counts=encoded["counts"],
        space=trained["space"],
        architecture=trained["architecture"],
        table=at["creators.lance"],
        report=report,
    )


def images_of(config: Config, place: Path) -> tuple[str, list[str]]:
    """Return the images and the columns to carry; draws the creators where none are given."""
    if config.images:
        return config.images, []
    log.info("drawing the demo's creators into %s", place / "images")
    manifest = render_creators(place / "images", seed=SEED)
    header = manifest.read_text("utf-8").partition("\n")[0].strip().split(",")
    return str(manifest), [name for name in header if name not in ("creator_id", "uri")]


def tables(at: dict[str, str], *, measured: bool) -> str:
    """Return the nearest creators of one creator and the top creators for two adjectives."""
    table = CreatorTable.open(at["creators.lance"])
    checkpoint = Checkpoint.open(at["same"])
    creators = table.creator_ids()
    unseen = [c for c in creators if checkpoint.split_of(c) == TEST] or creators
    seed = unseen[0]
    parts = [
        f"\nNearest to {command.printable(seed)}, by theme\n",
        cli_output.as_text(table.lookalikes(seed, k=5)),
    ]
    known = {}
    if measured:
        metrics = storage.read_json(str(Path(at["evaluation"]) / "metrics.json"))
        known = {entry["adjective"]: entry for entry in metrics["adjectives"]}
    best = sorted(known, key=lambda adjective: -known[adjective]["auc_oaar"])
    for adjective in (best or ["colorful", "dark"])[:ADJECTIVES_SHOWN]:
        entry = known.get(adjective)
        told = f"AUC against the truth {entry['auc_oaar']:.2f}" if entry else "no ground truth"
        parts.append(f"\nMost {adjective}, by OAAR ({told})\n")
        if entry and not entry["supported"]:
            parts.append("not supported by this encoder\n")
        else:
            parts.append(cli_output.as_text(table.rank(adjective, k=5)))
    return "".join(parts)


def plan_of(config: Config, place: Path) -> dict[str, Any]:
    """Return what `--dry-run` says."""
    plan: dict[str, Any] = {"dry_run": True, "output": str(place), "encoder": "lite"}
    if not config.images:
        return {**plan, "images": "60 creators with 24 pictures each, drawn (about 70 MB)"}
    manifest = read_images(config.images)
    return {**plan, "images": manifest.images.num_rows, "rejected_rows": manifest.rejected.num_rows}


if __name__ == "__main__":
    command.run_job(main, Config, name="python -m jobs.demo")
