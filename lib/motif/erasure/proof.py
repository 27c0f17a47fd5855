"""The proof of an erasure: every file of an artefact, read and looked through.

Files are compressed, so that looking for the bytes of an id would prove nothing: each is opened as
what it is. A file of a kind that we do not know is looked through byte by byte, for ids that are
long enough not to be there by chance.
"""

import html
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from motif import storage
from motif.artefacts.lock import GUARD_FILE, LOCK_FILE
from motif.erasure.files import below, holds, mentions
from motif.erasure.from_table import file_holds, find, is_begun
from motif.errors import ContractError
from motif.table import versions
from motif.table.layout import TableUri

_TELLING_BYTES = 6
_AGAIN = "the erasure is not complete: run the same command again, and report it if this stays"


def of_folder(folder: str, creators: pa.Array) -> int:
    """Read every file below a folder; returns how many.

    Raises:
        ContractError: One holds somebody; the message names it.
        InputError: One cannot be read.
    """
    count = 0
    for uri in below(folder):
        if uri.rsplit("/", 1)[-1] in (LOCK_FILE, GUARD_FILE):
            continue
        if file_mentions(uri, creators):
            raise ContractError(f"{uri} still holds somebody; {_AGAIN}")
        count += 1
    return count


def of_table(table: TableUri, creators: pa.Array) -> int:
    """Read every file of a table, of all of its versions; returns how many.

    Raises:
        ContractError: One holds somebody, or no version explains it; the message names it.
    """
    if is_begun(table):
        return 0
    dataset = versions.open_latest(table)
    if left := sorted(find(table, dataset, creators).versions):
        raise ContractError(f"{table.uri}: version {left[0]} still holds somebody; {_AGAIN}")
    count = 0
    tracked = set(dataset.tracked_files().read_all()["path"].to_pylist())
    for uri in below(table.uri):
        count += 1
        if uri.removeprefix(table.uri + "/") in tracked:
            continue  # `find` has read it
        lances = uri.endswith((".lance", ".idx"))
        if file_holds(uri, creators) if lances else file_mentions(uri, creators):
            raise ContractError(f"{uri} still holds somebody, in no version; {_AGAIN}")
    for one in dataset.versions():
        opened = dataset.checkout_version(one["version"])
        theirs = pc.field("creator_id").isin(creators)
        if "creator_id" in opened.schema.names and opened.count_rows(filter=theirs):
            raise ContractError(
                f"{table.uri}: version {one['version']} still holds somebody; {_AGAIN}"
            )
    return count


def file_mentions(uri: str, creators: pa.Array) -> bool:
    """Return whether a Parquet, JSON, HTML or other file has one of the ids in it."""
    ids = frozenset(creators.to_pylist())
    if uri.endswith(".parquet"):
        rows = storage.read_parquet(uri, ["creator_id"])
        return "creator_id" in rows.column_names and holds(rows, creators)
    if uri.endswith(".json"):
        return mentions(storage.read_json(uri), ids)
    text = storage.read_bytes(uri)
    if uri.endswith(".html"):
        return any(shown in text for creator in ids for shown in _shown(creator))
    names = (creator.encode("utf-8", "surrogatepass") for creator in ids)
    return any(len(name) >= _TELLING_BYTES and name in text for name in names)


def _shown(creator: str) -> Iterator[bytes]:
    """Yield how the page of an evaluation names a creator, below and in each picture of theirs."""
    # As Jinja escapes; an id such as `1` is in any page.
    text = html.escape(creator, quote=False).replace('"', "&#34;").replace("'", "&#39;")
    for form in (f'title="{text}"', f'alt="image by {text}"'):
        yield form.encode("utf-8", "surrogatepass")
