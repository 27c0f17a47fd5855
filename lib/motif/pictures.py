"""Which images are the same picture: the same file, or an equal perceptual hash."""

import numpy as np
from jaxtyping import Bool, Int, UInt64


def pictures_of(*hashes: UInt64[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """Return a number for each image, equal for images that agree in any of the hashes.

    Copies of a copy are the same picture as well, whichever hash tells.
    """
    codes = [np.unique(values, return_inverse=True)[1] for values in hashes]
    picture = np.arange(len(codes[0]))
    while True:
        before = picture
        for code in codes:
            least = np.full_like(picture, len(picture))
            np.minimum.at(least, code, picture)
            picture = least[code]
        if np.array_equal(picture, before):
            return picture


def repeats(
    creator: Int[np.ndarray, " images"], picture: Int[np.ndarray, " images"]
) -> tuple[Bool[np.ndarray, " images"], Bool[np.ndarray, " images"]]:
    """Say which images repeat a picture of their creator, and which are at several creators.

    A repost is neither a positive (it would be its own copy) nor a negative (it is the same
    picture at another creator).

    Args:
        creator: Of each image.
        picture: From `pictures_of`.

    Returns:
        Images whose picture an earlier one of their creator is; images whose picture another
        creator has.
    """
    order = np.lexsort((np.arange(len(creator)), creator, picture))
    same_picture = np.r_[False, picture[order][1:] == picture[order][:-1]]
    same_creator = same_picture & np.r_[False, creator[order][1:] == creator[order][:-1]]
    group = np.cumsum(~same_picture) - 1
    creators = np.bincount(group, weights=~same_creator)
    copies, shared = np.zeros((2, len(creator)), bool)
    copies[order] = same_creator
    shared[order] = creators[group] > 1
    return copies, shared
