import zlib

import numpy as np
import pytest

from jobs.publish_creators import read_adjectives
from motif import adjectives, schemas
from motif.adjectives import (
    CIFAR100_CLASSES,
    article,
    default_adjectives,
    directions,
    object_prompts,
    parse,
    plain_prompt,
    scores,
)
from motif.errors import InputError

DIM = 24


def known_vector(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=DIM)


def planted_encoder(texts: list[str]) -> np.ndarray:
    """The object's own vector, plus, where there is an adjective, the adjective's."""
    rows = []
    for text in texts:
        before, _, name = text.partition(" photo of ")
        word = before.split(" ", 1)[1] if " " in before else ""
        rows.append(10 * known_vector(name) + (known_vector(word) if word else 0))
    return np.stack(rows)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_directions_recover_what_the_adjective_adds_and_the_objects_cancel():
    words = ["vivid", "old", "black and white"]
    found = directions(words, planted_encoder)
    np.testing.assert_allclose(found, unit(np.stack([known_vector(w) for w in words])), atol=1e-9)


def test_a_direction_is_the_mean_over_objects():
    """An encoder in which the adjective's effect differs by object: the mean is what counts."""
    table: dict[str, np.ndarray] = {}

    def encode(texts):
        return np.stack([table.setdefault(t, known_vector(t)) for t in texts])

    total = np.zeros(DIM)
    for name in CIFAR100_CLASSES:
        a = "an" if name[0] in "aeiou" else "a"
        total += known_vector(f"a calm photo of {a} {name}")
        total -= known_vector(f"a photo of {a} {name}")
    np.testing.assert_allclose(directions(["calm"], encode)[0], unit(total), atol=1e-9)
    assert len(table) == 200


def test_no_adjectives_make_no_directions():
    assert directions([], planted_encoder).shape == (0, DIM)


def test_an_adjective_without_effect_is_refused():
    with pytest.raises(InputError, match="'mute' does not change"):
        directions(["mute"], lambda texts: np.ones((len(texts), 3)))


def test_there_are_the_hundred_classes_of_cifar_in_their_order():
    assert len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
    assert not any("_" in name for name in CIFAR100_CLASSES)
    assert CIFAR100_CLASSES[0] == "apple"
    assert CIFAR100_CLASSES[99] == "worm"
    assert {"lawn mower", "aquarium fish", "pickup truck", "sweet pepper"} <= set(CIFAR100_CLASSES)


def test_prompts():
    assert object_prompts()[0] == "a photo of an apple"
    assert object_prompts("vivid")[0] == "a vivid photo of an apple"
    assert object_prompts("elegant")[3] == "an elegant photo of a bear"
    assert object_prompts("vivid")[1] == "a vivid photo of an aquarium fish"
    assert len(object_prompts("vivid")) == 100
    assert plain_prompt("pleasing") == "A pleasing photo"
    assert plain_prompt("elegant") == "An elegant photo"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("apple", "an"), ("Elegant", "an"), ("old", "an"), ("urban", "an"), ("artistic", "an")),
        *(("vivid", "a"), ("yellow", "a"), ("humble", "a"), ("black-and-white", "a")),
        *(("unique", "a"), ("uniform", "a"), ("universal", "a"), ("united", "a"), ("useful", "a")),
        *(("usable", "a"), ("usual", "a"), ("utopian", "a"), ("ubiquitous", "a")),
        *(("european", "a"), ("euphoric", "a"), ("one-sided", "a")),
        *(("unusual", "an"), ("uninspired", "an"), ("unimpressive", "an"), ("unidentified", "an")),
        *(("unkempt", "an"), ("ugly", "an"), ("ultramodern", "an")),
        *(("honest", "an"), ("honorable", "an"), ("hour", "an"), ("heirloom", "an")),
    ],
)
def test_article_goes_by_sound(word, expected):
    assert article(word) == expected


def test_the_score_of_a_creator_is_the_mean_score_of_its_images():
    images = unit(np.random.default_rng(0).normal(size=(7, DIM)))
    unit_directions = directions(["vivid", "calm"], planted_encoder)
    per_image = [[sum(image * d) for d in unit_directions] for image in images]
    expected = np.mean(per_image, axis=0)
    np.testing.assert_allclose(scores(images.mean(axis=0)[None], unit_directions)[0], expected)
    np.testing.assert_allclose(scores(images, unit_directions), per_image)
    np.testing.assert_allclose(scores(unit_directions, unit_directions).diagonal(), 1)
    np.testing.assert_allclose(scores(-unit_directions, unit_directions).diagonal(), -1)


def test_the_default_list_is_what_a_brand_would_use():
    words = default_adjectives()
    assert len(words) == 32
    assert {"pleasing", "vivid"} <= set(words)
    columns = [schemas.oaar_column(word) for word in words]
    assert len(set(columns)) == 32
    assert all(column.isidentifier() and column == column.lower() for column in columns)


def test_parse_skips_comments_blank_lines_and_repeats():
    text = "# moods\nVivid\n\n  calm  # quiet\nvivid\nblack-and-white\nold fashioned\n"
    assert parse(text, "list.txt") == ["vivid", "calm", "black-and-white", "old fashioned"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        *(("vivid1", "vivid1"), ("a_b", "a_b"), ("vivid,calm", "vivid,calm"), ("-calm", "-calm")),
        *(("two  spaces", "two  spaces"), ("x" * 51, "x" * 51), ('"; drop', '"; drop')),
    ],
)
def test_parse_errors_name_file_line_and_word(line, word):
    with pytest.raises(InputError) as caught:
        parse(f"# one\ncalm\n{line}\n", "s3://b/list.txt")
    assert str(caught.value) == f"s3://b/list.txt, line 3: {word!r} is not an adjective"


def test_parse_refuses_two_words_of_one_column():
    with pytest.raises(InputError) as caught:
        parse("old-fashioned\nold fashioned\n", "list.txt")
    for part in ("list.txt, line 2", "'old fashioned'", "'old-fashioned'", "oaar_old_fashioned"):
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_an_empty_list_is_refused(text):
    with pytest.raises(InputError, match=r"list\.txt names no adjective"):
        parse(text, "list.txt")


@pytest.mark.parametrize(
    ("adjective", "column"),
    [
        *(("vivid", "oaar_vivid"), ("Black-and-White", "oaar_black_and_white")),
        *((" calm ", "oaar_calm"), ("old fashioned", "oaar_old_fashioned")),
    ],
)
def test_column_names(adjective, column):
    assert schemas.oaar_column(adjective) == column


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_adjectives_is_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_text("vivid\r\nélégant\r\n", encoding=encoding)
    assert read_adjectives(str(path)) == ["vivid", "élégant"]


def test_files_that_are_no_list_are_refused_by_name(tmp_path):
    (tmp_path / "latin.txt").write_bytes("élégant".encode("latin-1"))
    for name in ("latin.txt", "missing.txt", ""):
        with pytest.raises(InputError, match="--adjectives"):
            read_adjectives(str(tmp_path / name))


def test_no_file_means_the_default_list():
    assert read_adjectives("") == adjectives.default_adjectives()
