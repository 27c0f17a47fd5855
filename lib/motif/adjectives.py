"""OAAR: directions of adjectives that are free of objects (Duanis et al. 2023, section 3.2)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jaxtyping import Float

from motif import schemas
from motif.errors import InputError

# The fine labels of CIFAR-100 (Krizhevsky 2009), in their order, underscores as spaces.
CIFAR100_CLASSES: tuple[str, ...] = (
    *("apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle"),
    *("bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle"),
    *("caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch"),
    *("crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox"),
    *("girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn mower", "leopard", "lion"),
    *("lizard", "lobster", "man", "maple tree", "motorcycle", "mountain", "mouse", "mushroom"),
    *("oak tree", "orange", "orchid", "otter", "palm tree", "pear", "pickup truck", "pine tree"),
    *("plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road"),
    *("rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake"),
    *("spider", "squirrel", "streetcar", "sunflower", "sweet pepper", "table", "tank"),
    *("telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle"),
    *("wardrobe", "whale", "willow tree", "wolf", "woman", "worm"),
)

EncodeTexts = Callable[[list[str]], Float[np.ndarray, "texts dim"]]

_ADJECTIVE = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")


def article(word: str) -> str:
    """Return `a` or `an`, by the sound that the word begins with."""
    lower = word.lower()
    if lower.startswith(("unid", "unim", "unin", "hour", "honest", "honor", "honour", "heir")):
        return "an"
    if lower.startswith(("uni", "ubiq", "usa", "use", "usu", "uto", "eu", "one")):
        return "a"
    return "an" if lower[0] in "aeiou" else "a"


def plain_prompt(adjective: str) -> str:
    """Return the prompt that OAAR is compared with: `A pleasing photo`."""
    return f"{article(adjective).capitalize()} {adjective} photo"


def object_prompts(adjective: str = "") -> list[str]:
    """Return one prompt per CIFAR-100 class, with or without the adjective before `photo`."""
    start = f"{article(adjective)} {adjective} photo" if adjective else "a photo"
    return [f"{start} of {article(name)} {name}" for name in CIFAR100_CLASSES]


def directions(
    adjectives: Sequence[str], encode_texts: EncodeTexts
) -> Float[np.ndarray, "adjectives dim"]:
    """Return each adjective's unit direction in the encoder's space.

    The mean, over objects, of the difference that the adjective makes to the text embedding.

    Args:
        adjectives: Words such as `vivid`.
        encode_texts: Texts to unit rows.

    Raises:
        InputError: An adjective makes no difference at all to the text encoder.
    """
    if not adjectives:
        return np.zeros((0, encode_texts(["a photo"]).shape[1]), np.float32)
    without = encode_texts(object_prompts())
    rows = []
    for adjective in adjectives:
        mean = (encode_texts(object_prompts(adjective)) - without).mean(axis=0)
        length = np.linalg.norm(mean)
        if length == 0:
            raise InputError(
                f"adjective {adjective!r} does not change the encoder's text embedding"
            )
        rows.append(mean / length)
    return np.stack(rows)


@dataclass(frozen=True)
class ObjectDependence:
    """How much objects move a direction's score."""

    projection: float
    """Root mean square cosine to the differences between two objects' texts, in [0, 1]."""
    per_adjective: float
    """Standard deviation of the score over objects, in units of what the adjective adds to it; on
    objects that had no part in the direction."""


def object_dependence(
    adjective: str, encode_texts: EncodeTexts
) -> tuple[ObjectDependence, ObjectDependence]:
    """Return how free of objects an adjective's OAAR direction is, and the plain prompt's.

    What the paper claims (section 3.2). A direction from every other object is measured on the
    rest; the plain prompt meets all its objects for the first time.
    """
    without, with_ = encode_texts(object_prompts()), encode_texts(object_prompts(adjective))
    change = with_ - without
    plain = encode_texts([plain_prompt(adjective)])[0]
    first, second = np.triu_indices(len(without), 1)
    differences = without[first] - without[second]
    differences /= np.linalg.norm(differences, axis=1, keepdims=True)

    def of(whole: np.ndarray, unseen: np.ndarray) -> ObjectDependence:
        adds = float((change[1::2] @ unseen).mean())
        spread = float((without[1::2] @ unseen).std())
        return ObjectDependence(
            projection=float(np.sqrt(((differences @ whole) ** 2).mean())),
            per_adjective=spread / adds if adds > 0 else float("inf"),
        )

    def unit(row: np.ndarray) -> np.ndarray:
        return row / np.linalg.norm(row)

    return (
        of(unit(change.mean(axis=0)), unit(change[::2].mean(axis=0))),
        of(unit(plain), unit(plain)),
    )


def scores(
    embeddings: Float[np.ndarray, "rows dim"], unit_directions: Float[np.ndarray, "adjectives dim"]
) -> Float[np.ndarray, "rows adjectives"]:
    """Return signed dot products, in [-1, 1].

    For rows that are means of unit embeddings this is the mean score of their images.
    """
    return embeddings @ unit_directions.T


def default_adjectives() -> list[str]:
    """Return the adjectives that are published when no list is given."""
    return parse(files("motif").joinpath("adjectives.txt").read_text("utf-8"), "adjectives.txt")


def parse(text: str, source: str) -> list[str]:
    """Read one adjective per line; `#` starts a comment.

    Raises:
        InputError: A line is no adjective, or two make the same column.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if not _ADJECTIVE.fullmatch(word) or len(word) > 50:
            raise InputError(f"{source}, line {number}: {word[:60]!r} is not an adjective")
        column = schemas.oaar_column(word)
        if column.endswith("_pct"):
            raise InputError(
                f"{source}, line {number}: {word!r} would make a column {column}, which is that of"
                " another adjective's percentile"
            )
        if found.setdefault(column, word) != word:
            raise InputError(
                f"{source}, line {number}: {word!r} and {found[column]!r} make one column {column}"
            )
    if not found:
        raise InputError(f"{source} names no adjective")
    return list(found.values())
