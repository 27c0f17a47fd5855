"""Small JPEGs, a store that hands them out slowly, and commands that read them."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny_encoder
from tests.breaking import commands
from tests.breaking.object_server import ObjectServer
from tests.conftest import Picture

IMAGES, IN_MANIFEST, CREATORS = 2000, 400, 20
BUCKET = "pictures"


@dataclass(frozen=True)
class Pictures:
    """2,000 images at `s3://pictures`, and a manifest of the first 400 of them."""

    folder: Path
    keys: list[str]
    manifest: Path
    uris: list[str]
    """Of the manifest."""


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder that costs nothing."""
    return tiny_encoder.build(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Pictures:
    """Draw them once."""
    folder = tmp_path_factory.mktemp("pictures")
    keys = [f"creator-{number % CREATORS:02d}/{number:04d}.jpg" for number in range(IMAGES)]
    for number, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(exist_ok=True)
        picture(number, width=60, height=50).save(path, quality=85)
    uris = [f"s3://{BUCKET}/{key}" for key in keys[:IN_MANIFEST]]
    manifest = tmp_path_factory.mktemp("manifest") / "images.parquet"
    return Pictures(folder, keys, commands.write_manifest(uris, manifest), uris)


@pytest.fixture
def server(pictures: Pictures) -> Iterator[ObjectServer]:
    """The pictures' store."""
    with ObjectServer(pictures.folder) as running:
        yield running


@pytest.fixture
def start(
    pictures: Pictures, encoder: str, server: ObjectServer, tmp_path: Path
) -> Callable[..., AbstractContextManager[commands.Job]]:
    """Start encode_images on the pictures, into OUTPUT, with more flags and environment."""
    count = 0

    def run(
        output: Path,
        *flags: str,
        images: Path | None = None,
        address: str | None = None,
        prefix: tuple[str, ...] = (),
    ) -> AbstractContextManager[commands.Job]:
        nonlocal count
        count += 1
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_AD", "AWS_"))}
        environment |= commands.CREDENTIALS
        if address:
            environment["RAY_ADDRESS"] = address
        flags = ("--endpoint-url", server.url, "--allow", f"s3://{BUCKET}", *flags)
        command = commands.encoding(images or pictures.manifest, output, encoder, *flags)
        return commands.running(
            [*prefix, *command], environment=environment, log=tmp_path / f"log-{count}.txt"
        )

    return run
