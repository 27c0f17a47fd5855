"""Whom an artefact takes no rows of any more: a list of keyed hashes, `FOLDER/erased.json`.

`{"algorithm": "HMAC-SHA256", "key": HEX or null, "key_check": HEX, "creators": [HEX, ...]}`

The hash of a creator is that of its id under the list's key. Where the key lies in the file,
whoever reads it can test whether an id is listed: such a list is pseudonymous, not anonymous. With
a key of the user's own the file has only a check, by which another key is told from it.
"""

import hmac
import logging
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from motif import storage
from motif.errors import InputError

log = logging.getLogger(__name__)

FILE = "erased.json"
KEY_VARIABLE = "MOTIF_ERASURE_KEY"
ALGORITHM = "HMAC-SHA256"
FEWEST_KEY_BYTES = 16
_CHECKED = b"motif: the key of this list"


@dataclass(frozen=True)
class Erased:
    """The list of one artefact; empty and false where there is none."""

    key: bytes = field(default=b"", repr=False)
    digests: frozenset[str] = field(default=frozenset(), repr=False)

    def __bool__(self) -> bool:
        """Return whether anybody is listed."""
        return bool(self.digests)

    def holds(self, creator_id: str | None) -> bool:
        """Return whether a creator is listed."""
        return (
            bool(self.digests)
            and creator_id is not None
            and _digest(self.key, creator_id) in self.digests
        )

    def among(self, creator_ids: pa.ChunkedArray) -> Bool[np.ndarray, " rows"]:
        """Return which of a column of ids are listed; a null is not."""
        if not self.digests:
            return np.zeros(len(creator_ids), bool)
        listed = [creator for creator in pc.unique(creator_ids).to_pylist() if self.holds(creator)]
        found = pc.is_in(creator_ids, pa.array(listed, creator_ids.type))
        return np.asarray(found.to_numpy())


NOBODY = Erased()


def load(folder: str) -> Erased:
    """Read the list of an artefact; where there is none, it is empty.

    Args:
        folder: Of EMBEDDINGS, or `TableUri.beside()`.

    Raises:
        InputError: The list is damaged, or needs a key that is not given or is another.
    """
    return _read(folder, read_key())[0]


def add(folder: str, creator_ids: Iterable[str], *, key: bytes | None = None) -> int:
    """List creators, under the lock of the artefact; return how many were not listed before.

    Args:
        folder: Of EMBEDDINGS, or `TableUri.beside()`.
        creator_ids: Whom.
        key: The user's own, from `read_key`; without one a new list gets a random key, which lies
            in it. A list keeps the key that it was begun with: it holds no ids to hash again.

    Raises:
        InputError: The list is damaged, or has another key.
    """
    known, in_file = _read(folder, key)
    digests = known.digests
    if not known.key:
        in_file = key is None
        known = Erased(key or secrets.token_bytes(32))
    elif in_file and key is not None:
        log.warning("%s/%s has a key of its own, which it keeps", folder, FILE)
    after = digests | {_digest(known.key, creator) for creator in creator_ids}
    if after != digests:
        value = {
            "algorithm": ALGORITHM,
            "key": known.key.hex() if in_file else None,
            "key_check": _check(known.key),
            "creators": sorted(after),
        }
        storage.write_json(storage.join(folder, FILE), value)
    return len(after) - len(digests)


def read_key(key_file: str = "") -> bytes | None:
    """Return the user's own key: of a file, else of `MOTIF_ERASURE_KEY`; None without either.

    Raises:
        InputError: The file is not there, or the key is short.
    """
    if key_file:
        try:
            key = storage.read_bytes(key_file).strip()
        except OSError as error:
            raise InputError(f"--key-file {key_file} cannot be read: {error}") from error
        source = f"--key-file {key_file}"
    else:
        source, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").encode().strip()
        if not key:
            return None
    if len(key) < FEWEST_KEY_BYTES:
        raise InputError(
            f"{source}: the key has {len(key)} bytes; make one of {FEWEST_KEY_BYTES} or more, such"
            " as by `openssl rand -hex 32`"
        )
    return key


def _read(folder: str, own_key: bytes | None) -> tuple[Erased, bool]:
    """Return the list, and whether its key lies in it."""
    uri = storage.join(folder, FILE)
    if not storage.exists(uri):
        return NOBODY, False
    value = storage.read_json(uri)
    try:
        in_file = bytes.fromhex(value["key"]) if value["key"] is not None else None
        check, digests = value["key_check"], frozenset(map(str, value["creators"]))
        algorithm = value["algorithm"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{uri} is damaged ({error!r}); restore it from a backup") from error
    if algorithm != ALGORITHM:
        raise InputError(f"{uri} is of the algorithm {algorithm!r}, not {ALGORITHM}")
    key = in_file or own_key
    if key is None:
        raise InputError(
            f"{uri} was made with a key of your own: set {KEY_VARIABLE} to it, or pass --key-file"
        )
    if _check(key) != check:
        which = "is damaged: its key" if in_file else "was made with another key: the one given"
        raise InputError(f"{uri} {which} does not fit `key_check`")
    return Erased(key, digests), in_file is not None


def _check(key: bytes) -> str:
    return hmac.digest(key, _CHECKED, "sha256").hex()


def _digest(key: bytes, creator_id: str) -> str:
    return hmac.digest(key, creator_id.encode("utf-8", "surrogatepass"), "sha256").hex()
