"""Versions of a table: list them, go back to one, drop old ones. No Ray, no torch.

One publish makes several versions for Lance: rows, then each index. Its last one is checked, named
by its record and tagged `live`; the others, and those of a publish that was killed, were never
checked, and nothing goes back to them. The latest version may so be newer than the live one. Lance
never drops the latest, so that such a version stays until the next publish.
"""

import dataclasses
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import lance

from motif import storage
from motif.artefacts import lock
from motif.errors import InputError
from motif.table.layout import CANDIDATE, LIVE, TABLES, TableUri, is_unfinished, metadata_of

log = logging.getLogger(__name__)

PREVIOUS = "previous"
"""Tag of the version that was live before the last promotion, so that cleanup keeps it."""
PUBLISHES, ERASURES, STAGING = "publishes", "erasures", "staging"
SIDECARS = (PUBLISHES, "population", "halves")
"""Folders whose files are named by a run, and through it by a version."""
# Older than any file: what remains is whatever no version names.
_EVER = timedelta(days=36_500)


@dataclass(frozen=True)
class Version:
    """One of Lance's versions."""

    version: int
    created_at: str
    rows: int
    tags: tuple[str, ...]
    live: bool
    published: bool
    """Whether it was checked: `rollback` goes to no other."""
    run_id: str | None
    """Of the publish that made it; None when it is not ours."""
    model: str | None
    """From the publish's record, as is `creators`; None without one."""
    creators: int | None
    """When it was published; `rows` may be fewer since an erasure."""

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {**dataclasses.asdict(self), "tags": list(self.tags)}


def open_latest(table: TableUri) -> lance.LanceDataset:
    """Open the latest version of a table of ours, live or not.

    Raises:
        InputError: There is none.
    """
    if not storage.exists(table.uri):
        raise InputError(f"--table {table.uri} does not exist; jobs.publish_creators makes it")
    try:
        dataset = open_version(table, None)
        tags = dataset.tags.list()
        schema = dataset.schema if metadata_of(dataset.schema, TABLES) else None
        if schema is None and LIVE in tags:
            schema = dataset.checkout_version(tags[LIVE]["version"]).schema
    except (ValueError, OSError) as error:
        reason = f"is not a Lance table: {(str(error).splitlines() or ['?'])[0][:300]}"
        if is_unfinished(table):
            reason = "holds no version yet: its first publish has not finished"
        raise InputError(f"--table {table.uri} {reason}") from error
    if schema is None or metadata_of(schema, TABLES) is None:
        raise InputError(f"--table {table.uri} is a Lance table, but not one of Motif's")
    return dataset


def open_version(table: TableUri, version: int | None) -> lance.LanceDataset:
    """Open a version by its number; None for the latest."""
    options = storage.lance_options(table.uri)
    return lance.dataset(table.uri, version=version, storage_options=options)


def list_versions(table: TableUri) -> list[Version]:
    """Return all versions, newest first.

    Raises:
        InputError: There is no such table.
    """
    dataset = open_latest(table)
    tags: dict[int, list[str]] = {}
    for name, tag in dataset.tags.list().items():
        tags.setdefault(tag["version"], []).append(name)
    records = dict(publish_records(table))
    checked = {record.get("table_version"): run_id for run_id, record in records.items()}
    found = []
    for one in dataset.versions():
        number, made_at = one["version"], cast(datetime, one["timestamp"])
        told = metadata_of(dataset.checkout_version(number).schema, TABLES)
        run_id = str(told.get("run_id")) if told else None
        record = records.get(run_id or "", {})
        names = tuple(sorted(tags.get(number, ())))
        found.append(
            Version(
                version=number,
                # Lance's is in local time and does not say so.
                created_at=made_at.astimezone(UTC).isoformat(timespec="seconds"),
                rows=int(one["metadata"]["total_rows"]),
                tags=names,
                live=LIVE in names,
                published=told is not None and (bool(names) or number in checked),
                run_id=run_id,
                model=_model_of(record),
                creators=_creators_of(record),
            )
        )
    return sorted(found, key=lambda version: -version.version)


def publish_records(table: TableUri) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield run id and record of each publish; a damaged record is named in the log."""
    for uri in storage.list_files(table.beside(PUBLISHES), ".json"):
        try:
            yield _stem(uri), storage.read_json(uri)
        except InputError as error:
            log.warning("%s; it is passed over", error)


def rollback(table: TableUri, to: int | str, *, single_writer: bool = False) -> dict[str, Any]:
    """Move the tag `live` to another version.

    Args:
        table: Whose.
        to: The version's number, or a tag of it.
        single_writer: Do without the lock.

    Returns:
        `from_version` (None when nothing was live), `to_version`, `rows`, `run_id`.

    Raises:
        InputError: That version is not there, was dropped by an erasure, was never checked, or is
            not one of Motif's.
        OutputHeld: A publish, or another writer, is at work.
    """
    open_latest(table)  # before the lock, which makes a folder
    with _held(table, single_writer) as held:
        return _go_to(table, to, held)


def promote(
    table: TableUri, tag: str = CANDIDATE, *, single_writer: bool = False
) -> dict[str, Any]:
    """Let readers see the version of a tag, which goes; the one before is tagged `previous`.

    Args:
        table: Whose.
        tag: Of a version that `publish_creators --candidate` checked.
        single_writer: Do without the lock.

    Returns:
        As `rollback`.

    Raises:
        InputError: As `rollback`.
        OutputHeld: A publish, or another writer, is at work.
    """
    if tag == LIVE:
        raise InputError(f"--tag {tag}: that version is the live one")
    open_latest(table)
    with _held(table, single_writer) as held:
        done = _go_to(table, tag, held)
        tags = open_version(table, None).tags
        if (before := done["from_version"]) not in (None, done["to_version"]):
            (tags.update if PREVIOUS in tags.list() else tags.create)(PREVIOUS, before)
        if tag != PREVIOUS:
            tags.delete(tag)
    return done


def _go_to(table: TableUri, to: int | str, held: lock.Held) -> dict[str, Any]:
    versions = {version.version: version for version in list_versions(table)}
    target = next((v for v in versions.values() if to == v.version or to in v.tags), None)
    if target is None:
        raise InputError(_absent(table, to, versions.values()))
    if target.run_id is None:
        raise InputError(f"--to {to}: that version of {table.uri} is not one of Motif's")
    if not target.published:
        raise InputError(
            f"--to {to}: that version of {table.uri} was never published, only passed on the"
            f" way to a publish or left by one that was cut off; {_choice(versions.values())}"
        )
    before = next((v.version for v in versions.values() if v.live), None)
    if before != target.version:
        held.check()
        tags = open_version(table, None).tags
        (tags.create if before is None else tags.update)(LIVE, target.version)
    return {
        "table": table.uri,
        "from_version": before,
        "to_version": target.version,
        "rows": target.rows,
        "run_id": target.run_id,
    }


def cleanup(
    table: TableUri, older_than: timedelta, *, dry_run: bool = False, single_writer: bool = False
) -> dict[str, Any]:
    """Drop versions that are old, and files that no version names.

    A version stays when it has a tag, `live` or another, or is the latest. Fragments of a publish
    that was cut off go whatever their age, since the next one writes its own; its drafts, in
    `staging`, which that one goes on with, go when they are old.

    Args:
        table: Whose.
        older_than: Younger versions, sidecars and staging stay.
        dry_run: Only say what would go.
        single_writer: Do without the lock.

    Returns:
        `dropped_versions`, `kept_versions`, `bytes_removed`, `files_removed`, `sidecars_removed`,
        `staging_removed`.

    Raises:
        InputError: There is no such table.
        OutputHeld: A publish, or another writer, is at work.
    """
    open_latest(table)
    if dry_run:
        return {"dry_run": True, **_cleanup(table, datetime.now(UTC) - older_than, None)}
    with _held(table, single_writer) as held:
        return _cleanup(table, datetime.now(UTC) - older_than, held)


def _cleanup(table: TableUri, before: datetime, held: lock.Held | None) -> dict[str, Any]:
    """Do it, or with no lock held, only say what would be done."""
    versions = list_versions(table)
    latest = max(version.version for version in versions)
    old = [
        version.version
        for version in versions
        if not version.tags
        and version.version != latest
        and datetime.fromisoformat(version.created_at) < before
    ]
    staged = list(files_below(table.beside(STAGING)))
    staging_old = all(modified < before for _, modified in staged)
    sidecars = _unnamed(table, [v for v in versions if v.version not in old], before)
    if staged and not staging_old:
        sidecars = []  # a publish that goes on may count on them
    stats = drop(table, old, held=held)
    if held is not None:
        if staged and staging_old:
            held.check()
            storage.remove(table.beside(STAGING))
        for uri in sidecars:
            storage.remove(uri)
    return {
        "table": table.uri,
        "dropped_versions": sorted(old),
        "kept_versions": sorted({version.version for version in versions} - set(old)),
        **stats,
        "sidecars_removed": [uri.removeprefix(table.beside() + "/") for uri in sidecars],
        "staging_removed": bool(staged) and staging_old,
    }


def drop(table: TableUri, versions: list[int], *, held: lock.Held | None) -> dict[str, int]:
    """Drop versions, and files that no version names, whatever their age.

    Lance keeps versions that are tagged, or the latest. It would keep files of no version for a
    week, lest somebody is about to commit them: under the lock nobody is, and a writer that lost
    it commits nothing more.

    Args:
        table: Whose.
        versions: Their numbers.
        held: The lock; None only adds up what would go.

    Returns:
        `bytes_removed`, `files_removed`.
    """
    found = []
    dataset = open_version(table, None)
    act = dataset.explain_cleanup_old_versions if held is None else dataset.cleanup_old_versions
    steps: list[dict[str, Any]] = [{"versions": sorted(versions)}] if versions else []
    steps.append({"older_than": _EVER, "delete_unverified": True})
    for step in steps:
        if held is not None:
            held.check()
        done: Any = act(error_if_tagged_old_versions=False, **step)
        found.append(done if held is not None else done.stats)
    return {
        "bytes_removed": sum(stats.bytes_removed for stats in found),
        "files_removed": sum(
            stats.old_versions  # a manifest each
            + stats.data_files_removed
            + stats.transaction_files_removed
            + stats.index_files_removed
            + stats.deletion_files_removed
            for stats in found
        ),
    }


def files_below(folder: str) -> Iterator[tuple[str, datetime]]:
    """Yield URI and time of change of every file below a folder; an absent folder has none."""
    for uri in storage.list_files(folder):
        fs, path = storage.open_filesystem(uri)
        yield uri, fs.modified(path).astimezone(UTC)
    for uri in storage.list_folders(folder):
        yield from files_below(uri)


def _unnamed(table: TableUri, kept: list[Version], before: datetime) -> list[str]:
    """Return old sidecars that neither a version's metadata nor its publish's record names."""
    dataset = open_version(table, None)
    records = dict(publish_records(table))
    named = ""
    for version in kept:
        told = metadata_of(dataset.checkout_version(version.version).schema, TABLES)
        named += json.dumps([told, records.get(version.run_id or "")])
    return [
        uri
        for folder in SIDECARS
        for uri, modified in files_below(table.beside(folder))
        if modified < before and _stem(uri) not in named
    ]


def _stem(uri: str) -> str:
    return uri.rsplit("/", 1)[-1].rpartition(".")[0]


def _model_of(record: dict[str, Any]) -> str | None:
    model = record.get("model")
    if isinstance(model, dict):
        model = model.get("uri")
    return str(model or record.get("config", {}).get("model") or "") or None


def _creators_of(record: dict[str, Any]) -> int | None:
    count = record.get("counts", {}).get("creators")
    return count if isinstance(count, int) else None


def _absent(table: TableUri, to: int | str, versions: Any) -> str:
    for uri in storage.list_files(table.beside(ERASURES), ".json"):
        erasure = storage.read_json(uri)
        if to in erasure.get("dropped_versions", ()):
            return (
                f"--to {to}: that version of {table.uri} was dropped on"
                f" {erasure.get('started_at')} because it held somebody who was erased (erasure"
                f" {erasure.get('run_id')}); nothing can bring it back; {_choice(versions)}"
            )
    if isinstance(to, str):
        tags = sorted({tag for version in versions for tag in version.tags})
        return f"{table.uri} has no version tagged {to!r}; tags are: {', '.join(tags) or 'none'}"
    return f"--to {to}: {table.uri} has no such version; {_choice(versions)}"


def _choice(versions: Any) -> str:
    numbers = [str(version.version) for version in versions if version.published]
    return f"published versions are: {', '.join(numbers) or 'none'}"


def _held(table: TableUri, single_writer: bool) -> Any:
    return lock.hold(table.beside(), run_id=uuid.uuid4().hex[:12], single_writer=single_writer)
