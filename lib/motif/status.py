"""What ran, what is running, how fast, and what failed: read off an output, without Ray."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from motif import storage
from motif.artefacts import lock_holder, run
from motif.artefacts.archive import Archive
from motif.errors import InputError
from motif.progress import duration
from motif.table import versions
from motif.table.layout import LIVE, SUFFIX, TableUri

LAST = 5
"""Publishes and refreshes that are told."""


def status_of(uri: str) -> dict[str, Any]:
    """Return the status of what is at a URI: an archive, EMBEDDINGS or another artefact, a table.

    Raises:
        InputError: Nothing of Motif's is there.
    """
    if uri.rstrip("/").endswith(SUFFIX):
        return of_table(TableUri.parse(uri))
    where = storage.absolute(uri)
    archive = Archive.at(where)
    if storage.exists(storage.join(where, "refreshes")) or archive.models():
        return of_archive(archive)
    if _is_artefact(where):
        return of_artefact(where)
    if running := lock_holder.look(where):  # it has just begun
        return {"kind": "archive", "uri": where, "running": running}
    raise InputError(f"{uri} is no archive, artefact or table of Motif's")


def _is_artefact(uri: str) -> bool:
    return any(storage.exists(storage.join(uri, n)) for n in (run.RUN_FILE, run.UNFINISHED_FILE))


def of_artefact(uri: str) -> dict[str, Any]:
    """Return the status of a folder with a run.json, or with one that is under way."""
    found: dict[str, Any] = {"kind": "artefact", "uri": uri, "running": lock_holder.look(uri)}
    for name, state in ((run.RUN_FILE, "finished"), (run.UNFINISHED_FILE, "unfinished")):
        if storage.exists(storage.join(uri, name)):
            record = storage.read_json(storage.join(uri, name))
            found |= {"state": state, "artefact": record.get("artefact")}
            if state == "finished":
                found["last_run"] = _last_run(record)
            break
    return found


def _last_run(record: dict[str, Any]) -> dict[str, Any]:
    wanted = ("run_id", "started_at", "finished_at", "counts", "seconds", "manifest")
    told = {name: record[name] for name in wanted if name in record}
    if stages := record.get("stages"):
        names = ("images_per_second", "bottleneck", "cost_per_million_images")
        told |= {name: stages.get(name) for name in names}
    return told


def of_table(table: TableUri) -> dict[str, Any]:
    """Return the status of a table: what is live, who writes, and its last publishes."""
    listed = versions.list_versions(table)
    live = next((one for one in listed if one.live), None)
    records = sorted(
        (record for _, record in versions.publish_records(table)),
        key=lambda record: str(record.get("started_at")),
        reverse=True,
    )
    published = next((r for r in records if live and r.get("run_id") == live.run_id), {})
    return {
        "kind": "table",
        "uri": table.uri,
        "running": lock_holder.look(table.beside()),
        "live": live.to_json() if live else None,
        "live_published_at": published.get("finished_at") or (live.created_at if live else None),
        "versions": len(listed),
        "publishes": [_publish(record) for record in records[:LAST]],
    }


def _publish(record: dict[str, Any]) -> dict[str, Any]:
    counts = record.get("counts", {})
    return {
        "run_id": record.get("run_id"),
        "finished_at": record.get("finished_at"),
        "seconds": record.get("seconds", {}).get("total"),
        "mode": record.get("mode"),
        "tag": record.get("tag", LIVE),
        "version": record.get("table_version"),
        "creators": counts.get("creators"),
        "recomputed": counts.get("recomputed"),
    }


def of_archive(archive: Archive) -> dict[str, Any]:
    """Return the status of an archive: its refreshes, EMBEDDINGS and models."""
    summaries = list(archive.summaries())
    wanted = ("run_id", "started_at", "outcome", "exit_code", "seconds", "error", "text")
    embeddings = of_artefact(archive.embeddings) if _is_artefact(archive.embeddings) else None
    return {
        "kind": "archive",
        "uri": archive.uri,
        "running": lock_holder.look(archive.uri),
        "embeddings": embeddings,
        "models": [
            {
                "uri": model.uri,
                "finished_at": model.finished_at.isoformat(timespec="seconds"),
                "images": model.images,
                "refused": model.refused,
            }
            for model in archive.models()
        ],
        "refreshes": [{n: s.get(n) for n in wanted} for s in summaries[:LAST]],
    }


def as_text(found: dict[str, Any]) -> str:
    """Return a status for a person, a line a fact."""
    lines = {"table": _table_lines, "archive": _archive_lines, "artefact": _artefact_lines}
    return "".join(f"{line}\n" for line in [found["uri"], *lines[found["kind"]](found)])


def _running_line(running: dict[str, Any] | None) -> str:
    if running is None:
        return "running: nothing"
    who = f"run {running.get('run_id', '?')} on {running.get('host', '?')}"
    line = f"running: {who} since {running.get('started_at', '?')}"
    if running["state"] == "gone":
        return f"{line}, but its process is gone: the next run takes over"
    if running["state"] == "unknown":
        line += f", last heard of at {running.get('heartbeat_at', '?')}"
    progress = running.get("progress") or {}
    if waits := progress.get("paused_for"):
        line += f"\n  paused for {waits}"
    if "planned" in progress:
        failed = progress.get("failed_by_class") or {}
        line += f"\n  {progress['embedded']:,} of {progress['planned']:,} images encoded"
        line += f", {sum(failed.values()):,} failed{_by_class(failed)}"
        if progress.get("images_per_second"):
            left = duration(progress["seconds_left"] or 0)
            line += f", {progress['images_per_second']:,.4g} images/s, {left} left"
    return line


def _by_class(counts: dict[str, int]) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f" ({named})" if named else ""


def _artefact_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found.get('artefact') or 'artefact'}, {found.get('state', 'empty')}"
    yield _running_line(found["running"])
    last = found.get("last_run")
    if last is None:
        return
    took = duration(last.get("seconds", {}).get("total", 0))
    yield f"last run: {last.get('run_id')} of {last.get('finished_at')}, took {took}"
    counts = last.get("counts", {})
    shown = [
        f"{value:,} {name.replace('_', ' ')}"
        for name, value in counts.items()
        if isinstance(value, int)
    ]
    if shown:
        yield f"  holds: {', '.join(shown)}"
    if failed := counts.get("failed_by_class"):
        yield f"  failed:{_by_class(failed)}"
    if now := last.get("manifest"):
        failed = now.get("failed_now", {})
        yield (
            f"  did: {now.get('encoded_now', 0):,} encoded, {sum(failed.values()):,}"
            f" failed{_by_class(failed)}, {now.get('removed', 0):,} removed"
        )
    if rate := last.get("images_per_second"):
        yield f"  {rate:,.4g} images/s; {(last.get('bottleneck') or {}).get('verdict')}"


def _table_lines(found: dict[str, Any]) -> Iterator[str]:
    live = found["live"]
    if live is None:
        yield "live: nothing yet"
    else:
        age = datetime.now(UTC) - datetime.fromisoformat(found["live_published_at"])
        yield (
            f"live: version {live['version']} with {live['rows']:,} creators, published"
            f" {duration(age.total_seconds())} ago; {found['versions']} versions in all"
        )
    yield _running_line(found["running"])
    for one in found["publishes"]:
        yield (
            f"  {one['finished_at']}  {one['mode'] or '?':<11} version {one['version']}"
            f" ({one['tag']}): {one['creators'] or 0:,} creators, {one['recomputed'] or 0:,}"
            f" recomputed in {duration(one['seconds'] or 0)}"
        )


def _archive_lines(found: dict[str, Any]) -> Iterator[str]:
    yield _running_line(found["running"])
    if embeddings := found.get("embeddings"):
        yield f"EMBEDDINGS {embeddings['uri']}"
        for line in _artefact_lines(embeddings):
            yield f"  {line}"
    for model in found.get("models", ()):
        refused = ", refused by a publish" if model["refused"] else ""
        yield f"model {model['uri']} of {model['finished_at']}, {model['images']:,} images{refused}"
    for one in found.get("refreshes", ()):
        yield f"{one['started_at']}  {one['text']}"


def as_prometheus(found: dict[str, Any]) -> str:
    """Return a status as node_exporter's textfile collector reads it.

    Ray's own metrics end with the job; the age of what is live does not.
    """
    lines: list[str] = []

    def gauge(name: str, text: str, value: float, label: str) -> None:
        lines.append(f"# HELP {name} {text}")
        lines.append(f"# TYPE {name} gauge")
        escaped = label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines.append(f'{name}{{uri="{escaped}"}} {value:.15g}')

    uri = found["uri"]
    busy = found["running"] is not None and found["running"]["state"] != "gone"
    gauge("motif_running", "Whether a run holds it.", float(busy), uri)
    if found["kind"] == "table" and found["live"]:
        published = datetime.fromisoformat(found["live_published_at"]).timestamp()
        gauge("motif_live_version", "Version that readers see.", found["live"]["version"], uri)
        gauge("motif_live_creators", "Creators in it.", found["live"]["rows"], uri)
        gauge("motif_live_published_timestamp_seconds", "When it was published.", published, uri)
    for last in found.get("refreshes", ())[:1]:
        at = datetime.fromisoformat(last["started_at"]).timestamp() + last["seconds"]
        gauge("motif_refresh_exit_code", "Of the last refresh.", last["exit_code"], uri)
        gauge("motif_refresh_finished_timestamp_seconds", "When it ended.", at, uri)
    return "\n".join(lines) + "\n"
