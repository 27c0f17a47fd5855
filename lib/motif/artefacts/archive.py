"""What the scheduled jobs keep of one library of images, in one encoder's space, below one folder.

ARCHIVE/embeddings/            EMBEDDINGS
ARCHIVE/models/NAME/           SAME checkpoints; refused.json where a publish would not have it
ARCHIVE/evaluations/RUN/       evaluations, and a backfill's comparisons
ARCHIVE/refreshes/RUN.json     what each refresh did
ARCHIVE/_lock.json             which refresh or backfill is at work

All state is here: whichever machine runs the next job needs no other.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from motif import storage
from motif.artefacts import run
from motif.errors import InputError

log = logging.getLogger(__name__)

REFUSED_FILE = "refused.json"


@dataclass(frozen=True)
class Model:
    """A finished SAME checkpoint of an archive."""

    uri: str
    finished_at: datetime
    images: int
    """That EMBEDDINGS held when it was trained."""
    refused: bool
    """Whether a publish found it worse than what was live."""


@dataclass(frozen=True)
class Archive:
    """The folder's places, and what can be read off them."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> "Archive":
        """Name one, there or not."""
        return cls(storage.absolute(uri))

    @property
    def embeddings(self) -> str:
        """Folder of EMBEDDINGS."""
        return storage.join(self.uri, "embeddings")

    def evaluation(self, run_id: str) -> str:
        """Return the folder of a run's evaluation."""
        return storage.join(self.uri, "evaluations", run_id)

    def summary(self, run_id: str) -> str:
        """Return the file that says what a refresh did."""
        return storage.join(self.uri, "refreshes", f"{run_id}.json")

    def model_on(self, embeddings_run_id: str) -> str:
        """Return the folder of the checkpoint that is trained on a snapshot of EMBEDDINGS.

        Training that was cut off is so found again by a run that finds the same images.
        """
        return storage.join(self.uri, "models", f"on-{embeddings_run_id}")

    def models(self) -> list[Model]:
        """Return the finished checkpoints, newest first."""
        found = list(self._models())
        return sorted(found, key=lambda model: model.finished_at, reverse=True)

    def _models(self) -> Iterator[Model]:
        for folder in storage.list_folders(storage.join(self.uri, "models")):
            if not storage.exists(storage.join(folder, run.RUN_FILE)):
                continue
            try:
                record = run.read(folder, run.CHECKPOINT)
            except InputError as error:
                log.warning("%s; it is passed over", error)
                continue
            yield Model(
                uri=folder.rstrip("/"),
                finished_at=datetime.fromisoformat(record["finished_at"]),
                images=int(record.get("trained_on", {}).get("images", 0)),
                refused=storage.exists(storage.join(folder, REFUSED_FILE)),
            )

    def unfinished_models(self) -> list[str]:
        """Return the folders of training that was cut off."""
        return [
            folder.rstrip("/")
            for folder in storage.list_folders(storage.join(self.uri, "models"))
            if storage.exists(storage.join(folder, run.UNFINISHED_FILE))
        ]

    def refuse(self, model: str, reason: str) -> None:
        """Note that a model is worse than what is live, so that nobody tries it every night."""
        told = {"refused_at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}
        storage.write_json(storage.join(model, REFUSED_FILE), told)

    def summaries(self) -> Iterator[dict[str, Any]]:
        """Yield what refreshes and backfills did, newest first."""
        records = []
        for uri in storage.list_files(storage.join(self.uri, "refreshes"), ".json"):
            try:
                records.append(storage.read_json(uri))
            except InputError as error:
                log.warning("%s; it is passed over", error)
        yield from sorted(records, key=lambda one: str(one.get("started_at")), reverse=True)


@dataclass(frozen=True)
class Schedule:
    """When to train again."""

    every: timedelta | None
    """Age of the newest model; None for never."""
    when_grown: float | None
    """Growth of the images since it, as a fraction of those; None for never."""

    def due(self, models: list[Model], images: int) -> str:
        """Return why to train now, or nothing.

        Args:
            models: Newest first; one that was refused counts as tried.
            images: That EMBEDDINGS hold.
        """
        if not models:
            return "there is no model yet"
        newest = models[0]
        if self.every is not None and datetime.now(UTC) - newest.finished_at >= self.every:
            return f"the newest model is of {newest.finished_at.isoformat(timespec='minutes')}"
        grown = self.when_grown is not None and images >= newest.images * (1 + self.when_grown)
        if grown and images > newest.images:
            return f"{images:,} images, where the newest model was trained on {newest.images:,}"
        return ""


def chosen(models: list[Model]) -> Model | None:
    """Return the model to publish with: the newest that was not refused."""
    return next((model for model in models if not model.refused), None)
