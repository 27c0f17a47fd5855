"""Where a CREATORS table and what belongs to it lie.

DATABASE/TABLE.lance                       the table, for any Lance client
DATABASE/TABLE.motif/publishes/RUN.json    what a publish was made of and what its checks found
DATABASE/TABLE.motif/population/ID.parquet statistics of all creators, frozen between full publishes
DATABASE/TABLE.motif/directions/ID.json    adjectives, their directions and prompts
DATABASE/TABLE.motif/halves/RUN.parquet    held-out creators, each as two vectors of disjoint images
DATABASE/TABLE.motif/erasures/RUN.json     what was erased when, without saying whom
DATABASE/TABLE.motif/erased.json           whom the table takes no rows of any more (keyed hashes)
DATABASE/TABLE.motif/staging/              what a publish that works has done so far
DATABASE/TABLE.motif/_lock.json            who writes

The table's schema metadata names the publish and, through it, the rest.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from motif import storage
from motif.errors import InputError

CREATORS, RECOMMENDATIONS = "creators", "recommendations"
TABLES = (CREATORS, RECOMMENDATIONS)
"""Artefacts that are tables."""
LIVE = "live"
CANDIDATE = "candidate"
"""Tag of a version that was checked and waits to be promoted."""
METADATA_KEY = b"motif"
SUFFIX = ".lance"
BESIDE = ".motif"
# LanceDB opens no table of another name.
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class TableUri:
    """`DATABASE/TABLE.lance`, taken apart."""

    database: str
    name: str

    @classmethod
    def parse(cls, uri: str, flag: str = "--table") -> "TableUri":
        """Take a table URI apart; `flag` is what refusals name.

        Raises:
            InputError: It does not end in `/NAME.lance`, LanceDB takes no such name, or its scheme
                is not allowed.
        """
        full = storage.absolute(uri)
        database, _, name = full.rpartition("/")
        # `s3://NAME.lance` is a bucket, and `s3:/` what would be left of it.
        if not name.endswith(SUFFIX) or name == SUFFIX or database in ("", "s3:/"):
            raise InputError(
                f"{flag} {uri}: expected DATABASE/TABLE{SUFFIX} or s3://bucket/db/TABLE{SUFFIX}"
            )
        # LanceDB takes a question mark in a folder for the end of it.
        if not _NAME.fullmatch(name) or "?" in database:
            raise InputError(
                f"{flag} {uri}: the name {name!r} may hold only letters A to Z, digits, `_`, `-`"
                " and `.`, and its folder no `?`"
            )
        return cls(database, name.removesuffix(SUFFIX))

    @property
    def uri(self) -> str:
        """The whole."""
        return f"{self.database}/{self.name}{SUFFIX}"

    def beside(self, *parts: str) -> str:
        """Return the URI of something that belongs to the table."""
        return storage.join(self.database, f"{self.name}{BESIDE}", *parts)


def is_unfinished(table: TableUri) -> bool:
    """Return whether all that is there are fragments of a first publish that was cut off."""
    fs, path = storage.open_filesystem(table.uri)
    fs.invalidate_cache()
    if not fs.isdir(path):
        return False
    names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)}
    # A commit writes its transaction first and its manifest last.
    return names <= {"data", "_transactions", "_versions"} and not storage.list_files(
        storage.join(table.uri, "_versions"), ".manifest"
    )


def metadata_of(
    schema: pa.Schema, artefacts: tuple[str, ...] = (CREATORS,)
) -> dict[str, Any] | None:
    """Return what a job recorded in the table's schema; None when it is no such table of ours."""
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("artefact") in artefacts else None
