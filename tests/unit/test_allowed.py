"""What a manifest may name: not whatever its writer likes."""

from pathlib import Path

import pytest

from motif.errors import InputError
from motif.images.allowed import Allowed
from motif.images.fetch import FetchError, FetchLimits, fetch_all


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`library` with a picture and links out of it, beside `library-2` and a secret."""
    library = tmp_path / "library"
    (library / "anna").mkdir(parents=True)
    (library / "anna" / "1.jpg").write_bytes(b"picture")
    (tmp_path / "library-2").mkdir()
    (tmp_path / "library-2" / "2.jpg").write_bytes(b"another's")
    (tmp_path / "secret").write_bytes(b"secret")
    (library / "link.jpg").symlink_to(tmp_path / "secret")
    (library / "folder").symlink_to(tmp_path / "library-2")
    (tmp_path / "entrance").symlink_to(library)
    (library / "images.csv").write_text("creator_id,uri\n")
    return tmp_path


def test_a_manifest_names_what_is_below_its_folder(folder):
    allowed = Allowed.of(str(folder / "library" / "images.csv"))
    inside = [f"{folder}/library/anna/1.jpg", f"file://{folder}/library/anna/1.jpg"]
    inside += [f"{folder}/library/anna/../anna/1.jpg", f"{folder}/entrance/anna/1.jpg"]
    inside += [f"{folder}/library/nobody.jpg"]
    outside = [
        *("/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd"),
        *(f"{folder}/secret", f"{folder}/library/../secret", f"{folder}/library-2/2.jpg"),
        *(f"{folder}/library/link.jpg", f"{folder}/library/folder/2.jpg"),
        *(f"{folder}/library/\0.jpg", f"{folder}/library"),
        *("s3://bucket/a.jpg", "http://169.254.169.254/latest/meta-data/", "https://x/a.jpg"),
        *("gs://bucket/a.jpg", "data:image/png;base64,AAAA"),
    ]
    assert [uri for uri in inside if not allowed.holds(uri)] == []
    assert [uri for uri in outside if allowed.holds(uri)] == []


@pytest.mark.parametrize("images", ["", "/{creator_id}/*.jpg"])
def test_a_folder_or_a_template_names_what_is_below_it(folder, images):
    allowed = Allowed.of(f"{folder}/library{images}")
    assert allowed.holds(f"{folder}/library/anna/1.jpg")
    assert not allowed.holds(f"{folder}/library-2/2.jpg")
    assert not allowed.holds(f"{folder}/library/folder/2.jpg")


@pytest.mark.parametrize(
    "images", ["s3://mine/manifests/m.parquet", "S3://mine/m.csv", "s3://mine/{creator_id}/**"]
)
def test_a_bucket_names_its_own(images):
    allowed = Allowed.of(images)
    assert allowed.holds("s3://mine/a.jpg")
    assert allowed.holds("S3://mine/deep/b.jpg")
    for uri in (
        "s3://mine-2/a.jpg",
        "s3://other/mine/a.jpg",
        "/etc/passwd",
        "s3://mine",
        "s3:///x",
    ):
        assert not allowed.holds(uri)


def test_the_operator_allows_more(folder):
    more = ["s3://photos/public", "S3://videos/", f"{folder}/library-2"]
    allowed = Allowed.of(str(folder / "library" / "images.csv"), more)
    for uri in ("s3://photos/public/a.jpg", "s3://videos/b.jpg", f"{folder}/library/folder/2.jpg"):
        assert allowed.holds(uri)
    for uri in ("s3://photos/public-not/a.jpg", "s3://photos/a.jpg", f"{folder}/secret"):
        assert not allowed.holds(uri)


@pytest.mark.parametrize(
    ("place", "told"), [("http://x", "scheme 'http' is not allowed"), ("s3://", "name a bucket")]
)
def test_places_that_are_none_are_refused(folder, place, told):
    with pytest.raises(InputError, match=told):
        Allowed.of(str(folder / "library"), [place])


def test_what_is_outside_is_not_read(folder):
    limits = FetchLimits(allowed=Allowed.of(str(folder / "library")))
    uris = [f"{folder}/library/anna/1.jpg", f"{folder}/secret", f"{folder}/library/link.jpg"]
    first, *others = fetch_all(uris, limits)
    assert first == b"picture"
    for other in others:
        assert isinstance(other, FetchError)
        assert (other.error_class, other.attempts) == ("denied", 1)
        assert "--allow" in other.message
