"""Which URIs a manifest may name: whoever writes a manifest must not choose what the job reads."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from motif import storage
from motif.errors import InputError
from motif.images import source


@dataclass(frozen=True)
class Allowed:
    """Folders and buckets that images may be in."""

    prefixes: tuple[str, ...]
    """Absolute, each with a slash at its end."""

    @classmethod
    def of(cls, images: str, more: Sequence[str] = ()) -> "Allowed":
        """Allow what lies beside a manifest: below its folder, or in its bucket.

        Args:
            images: `--images`: a manifest, a folder or a template.
            more: Buckets, prefixes and folders that the operator names.

        Raises:
            InputError: A scheme is not one of ours, or no bucket is named.
        """
        found = [_beside(images)]
        for one in more:
            place = _absolute(one)
            if storage.scheme(one) == "s3" and not place.removeprefix("s3://"):
                raise InputError(f"--allow {one}: name a bucket, as in s3://bucket")
            found.append(place)
        return cls(tuple(f"{place.rstrip('/')}/" for place in found))

    def holds(self, uri: str) -> bool:
        """Return whether a URI is below one of the prefixes; local links are followed first."""
        if storage.scheme(uri) not in storage.SCHEMES:
            return False
        if storage.scheme(uri) == "s3":
            return _absolute(uri).startswith(self.prefixes)
        try:
            path = os.path.realpath(_absolute(uri))
        except (ValueError, OSError):
            return False  # a NUL, or too many links
        local = (one for one in self.prefixes if storage.scheme(one) != "s3")
        return any(path.startswith(f"{os.path.realpath(one).rstrip('/')}/") for one in local)


def _beside(images: str) -> str:
    if source.CREATOR in images:
        images, _ = source.root_of(storage.absolute(images))
    place = _absolute(images)
    if storage.scheme(place) == "s3":
        return "/".join(place.split("/")[:3])
    fs, path = storage.open_filesystem(place)
    return place if fs.isdir(path) else place.rpartition("/")[0]


def _absolute(uri: str) -> str:
    if storage.scheme(uri) == "s3":
        return f"s3://{uri.partition('://')[2]}"  # whatever the case of its scheme
    return storage.absolute(uri)
