from collections import defaultdict

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from motif import schemas
from motif.artefacts import embeddings
from motif.artefacts.snapshot import Bucket
from motif.images import reposts
from motif.images.plan import Request
from motif.images.reposts import Reposts

SCHEMA = schemas.embeddings(1)


def slowly(images: list[tuple[int, int]]) -> Reposts:
    """Count as the definition has it, from (picture, creator) of each image."""
    by_picture = defaultdict(list)
    for picture, creator in images:
        by_picture[picture].append(creator)
    same = sum(len(creators) - len(set(creators)) for creators in by_picture.values())
    other = sum(len(creators) for creators in by_picture.values() if len(set(creators)) > 1)
    return Reposts(same_creator=same, other_creators=other)


@given(images=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=25))
def test_count_matches_the_definition(images):
    images = sorted(images)
    picture, creator = (np.array([i[n] for i in images], np.uint64) for n in range(2))
    assert reposts.count(picture, creator) == slowly(images)


def test_counts_of_shares_add_up():
    assert Reposts(1, 2) + Reposts(3, 4) == Reposts(4, 6)


def write(request: Request, bucket: int, images: dict[str, tuple[str, str, str]]) -> Bucket:
    rows = [
        {
            "image_id": image,
            "creator_id": creator,
            "uri": "/",
            "embedding": [1.0],
            "content_hash": content,
            "perceptual_hash": perceptual,
        }
        for image, (creator, content, perceptual) in images.items()
    ]
    name = embeddings.part_name("embeddings", bucket, request.buckets, "r")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return Bucket(embeddings=(embeddings.write_part(request.output, name, table),))


image = st.tuples(*(st.sampled_from(options) for options in ("xy", "abc", "pq")))


@settings(max_examples=25, deadline=None)
@given(buckets=st.lists(st.lists(image, max_size=6), min_size=1, max_size=3), removed=st.booleans())
def test_pictures_meet_across_buckets_and_removed_images_do_not_count(
    tmp_path_factory, buckets, removed
):
    folder = tmp_path_factory.mktemp("reposts")
    request = Request(
        images="",
        output=str(folder / "out"),
        scratch=str(folder / "scratch"),
        staging="",
        run_id="r",
        buckets=len(buckets),
        schema=SCHEMA,
    )
    uris, live = [], []
    for bucket, found in enumerate(buckets):
        images = {f"{bucket}-{n}": (f"{c}{bucket}", *rest) for n, (c, *rest) in enumerate(found)}
        state = write(request, bucket, images)
        gone = [name for name in images if removed and name.endswith("-0")]
        if gone:
            rows = [{"image_id": name, "creator_id": "c", "removed_at": 0} for name in gone]
            table = pa.Table.from_pylist(rows, schema=schemas.REMOVED)
            part = embeddings.write_part(request.output, f"removed/{bucket}.parquet", table)
            state = Bucket(embeddings=state.embeddings, removed=(part,))
        live += [value for name, value in images.items() if name not in gone]
        uris.append(reposts.write_hashes(request, bucket, state))
    for kind, files in enumerate(zip(*uris, strict=True)):
        counted = sum(
            (reposts.count_share(files, share) for share in range(len(buckets))), Reposts()
        )
        expected = slowly([(hash(row[1 + kind]), hash(row[0])) for row in live])
        assert counted == expected
