import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from motif.pictures import pictures_of, repeats


@given(
    hashes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9),
)
def test_pictures_are_joined_by_any_chain_of_equal_hashes(hashes):
    joined = [{i} for i in range(len(hashes))]
    for i, j in itertools.combinations(range(len(hashes)), 2):
        if any(a == b for a, b in zip(hashes[i], hashes[j], strict=True)):
            both = joined[i] | joined[j]
            for member in both:
                joined[member] = both
    found = pictures_of(*(np.array(column, np.uint64) for column in zip(*hashes, strict=True)))
    for i, j in itertools.combinations(range(len(hashes)), 2):
        assert (found[i] == found[j]) == (j in joined[i])


@given(
    images=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=20),
)
def test_reposts_are_as_defined(images):
    creator, picture = zip(*images, strict=True)
    everyone = range(len(images))
    copies = [any(images[j] == images[i] for j in range(i)) for i in everyone]
    shared = [
        any(creator[j] != creator[i] and picture[j] == picture[i] for j in everyone)
        for i in everyone
    ]
    found = repeats(np.array(creator), np.array(picture))
    assert [part.tolist() for part in found] == [copies, shared]
