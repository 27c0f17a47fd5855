import csv
import dataclasses
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from motif.demo_creators import render
from motif.demo_creators.objects import OBJECTS
from motif.demo_creators.render import draw, plan, render_creators
from motif.demo_creators.themes import ADJECTIVES, theme_of

# The adjectives are measured once for the first 24 creators: they take every recipe in turn.
CREATORS, IMAGES = 24, 2


def rows_of(manifest):
    with manifest.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("creators")
    return render_creators(folder, creators=CREATORS, images_per_creator=IMAGES, processes=1)


def luma_of(pixels):
    return (pixels @ [0.299, 0.587, 0.114]).mean() / 255


def colourfulness_of(pixels):
    red, green, blue = np.moveaxis(pixels, 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = (first.var() + second.var()) ** 0.5
    return spread + 0.3 * (first.mean() ** 2 + second.mean() ** 2) ** 0.5


def detail_of(pixels):
    """What a 3x3 mean takes away at 256 pixels: (largest per contrast, typical), in grey levels."""
    image = Image.fromarray(pixels.astype(np.uint8)).convert("L")
    image.thumbnail((256, 256), Image.Resampling.BOX)
    grey = np.asarray(image, float)
    padded = np.pad(grey, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    residue = np.abs(grey - windows.mean((2, 3)))
    contrast = np.percentile(grey, 99) - np.percentile(grey, 1) + 1
    return np.percentile(residue, 99.5) / contrast, np.median(residue)


@pytest.fixture(scope="module")
def measured(manifest):
    """Rows of the manifest, each with its measures."""
    found = []
    for row in rows_of(manifest):
        with Image.open(manifest.parent / row["uri"]) as image:
            pixels = np.asarray(image.convert("RGB"), float)
        sharpness, grain = detail_of(pixels)
        measures = {
            "luma": luma_of(pixels),
            "colourfulness": colourfulness_of(pixels),
            "chroma": np.ptp(pixels, axis=2).max(),
            "sharpness": sharpness,
            "grain": grain,
        }
        found.append(row | measures)
    return found


def split(measured, adjective, measure):
    """Values of `measure` where `adjective` holds, and where it does not."""
    holds = [row[measure] for row in measured if row[adjective] == "true"]
    not_so = [row[measure] for row in measured if row[adjective] == "false"]
    assert holds
    assert len(holds) + len(not_so) == CREATORS * IMAGES
    return holds, not_so


def test_black_and_white_has_no_colour_and_everything_else_has(measured):
    grey, coloured = split(measured, "is_black-and-white", "chroma")
    assert max(grey) == 0
    assert min(coloured) > 20


def test_dark_is_darker_than_everything_else(measured):
    dark, rest = split(measured, "is_dark", "luma")
    assert max(dark) < 0.28
    assert min(rest) > 0.38


def test_bright_is_brighter_than_everything_else(measured):
    bright, rest = split(measured, "is_bright", "luma")
    assert min(bright) > 0.78
    assert max(rest) < 0.73


def test_colorful_is_more_colourful_than_everything_else(measured):
    colourful, rest = split(measured, "is_colorful", "colourfulness")
    assert min(colourful) > 70
    assert max(rest) < 55


def test_blurry_lacks_the_high_frequencies_of_everything_else(measured):
    blurry, sharp = split(measured, "is_blurry", "sharpness")
    assert max(blurry) < 0.055
    assert min(sharp) > 0.075


def test_grainy_is_uneven_where_everything_else_is_smooth(measured):
    grainy, smooth = split(measured, "is_grainy", "grain")
    assert min(grainy) > 5
    assert max(smooth) < 4.5


def test_vintage_is_warmer_than_grey_and_faded(manifest):
    for row in rows_of(manifest):
        if row["is_vintage"] == "true":
            with Image.open(manifest.parent / row["uri"]) as image:
                red, _, blue = np.asarray(image.convert("RGB"), float).mean((0, 1))
            assert red > blue + 15, row["uri"]


def test_minimalist_leaves_most_of_the_picture_empty(manifest):
    """A calm picture has few edges: count the 16x16 cells in which anything happens."""
    busy = defaultdict(list)
    for row in rows_of(manifest):
        if row["is_grainy"] == "true" or row["is_blurry"] == "true":
            continue  # grain is everywhere, blur hides edges
        with Image.open(manifest.parent / row["uri"]) as image:
            cells = np.asarray(image.convert("L").resize((256, 256)), float)
        cells = cells.reshape(16, 16, 16, 16).swapaxes(1, 2)
        busy[row["is_minimalist"]].append((np.ptp(cells, axis=(2, 3)) > 45).mean())
    assert np.mean(busy["true"]) < 0.5 * np.mean(busy["false"])
    assert max(busy["true"]) < 0.3


def test_every_adjective_holds_for_8_to_20_of_72_creators():
    counts = Counter()
    for creator in range(72):
        counts.update(name for name, holds in theme_of(creator, 0).adjectives().items() if holds)
    assert set(counts) == set(ADJECTIVES)
    assert all(8 <= count <= 20 for count in counts.values()), counts


def test_themes_of_72_creators_differ():
    themes = [theme_of(creator, 0) for creator in range(72)]
    for nth, theme in enumerate(themes):
        for other in themes[nth + 1 :]:
            same = [
                field.name
                for field in dataclasses.fields(theme)
                if getattr(theme, field.name) == getattr(other, field.name)
            ]
            assert len(same) <= len(dataclasses.fields(theme)) - 3, (theme, other)


def test_objects_say_nothing_of_their_creator():
    pictures = plan(creators=72, images_per_creator=24, seed=0)
    makers, firsts = defaultdict(set), Counter()
    for picture in pictures:
        makers[picture.object].add(picture.creator_id)
        firsts[picture.object] += "/00-" in picture.uri
    assert set(makers) == set(OBJECTS)
    # 24 of 30 objects each: 58 creators expected, with a standard deviation of 3.4.
    assert all(44 <= len(ids) < 72 for ids in makers.values())
    # A list in fixed order would give all first images to one object.
    assert max(firsts.values()) < 12
    per_creator = Counter(picture.creator_id for picture in pictures)
    assert set(per_creator.values()) == {24}
    # The adjectives split the objects as they split the creators.
    dark = Counter(p.object for p in pictures if p.theme.light == "dark")
    share = {name: dark[name] / len(makers[name]) for name in OBJECTS}
    assert all(0.08 < value < 0.36 for value in share.values()), share


def test_an_object_repeats_only_after_all_were_drawn():
    pictures = plan(creators=1, images_per_creator=2 * len(OBJECTS), seed=3)
    assert set(Counter(picture.object for picture in pictures).values()) == {2}


def test_sizes_formats_and_shapes_of_the_plan():
    pictures = plan(creators=72, images_per_creator=24, seed=0)
    longer = np.array([max(picture.size) for picture in pictures])
    assert longer.min() >= 256
    assert longer.max() <= 1280
    assert longer.max() > 1200
    shapes = np.array([picture.size[0] / picture.size[1] for picture in pictures])
    for share in ((shapes > 1.1).mean(), (shapes < 0.9).mean(), (abs(shapes - 1) < 0.05).mean()):
        assert share > 0.15
    suffixes = Counter(picture.uri.rsplit(".", 1)[1] for picture in pictures)
    assert set(suffixes) == {"jpg", "png", "webp"}
    assert min(suffixes.values()) > 150


def test_written_files_are_what_their_names_and_the_plan_say(manifest):
    formats = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
    planned = plan(creators=CREATORS, images_per_creator=IMAGES, seed=0)
    rows = rows_of(manifest)
    assert [row["uri"] for row in rows] == [picture.uri for picture in planned]
    for row, picture in zip(rows, planned, strict=True):
        path = manifest.parent / row["uri"]
        assert path.parent.name == row["creator_id"]
        assert path.stem.endswith(row["object"])
        with Image.open(path) as image:
            assert image.format == formats[path.suffix]
            assert image.size == picture.size


def test_truth_is_constant_per_creator(manifest):
    truth = defaultdict(set)
    for row in rows_of(manifest):
        assert list(row) == ["creator_id", "uri", "object", *ADJECTIVES]
        values = tuple(row[adjective] for adjective in ADJECTIVES)
        assert set(values) <= {"true", "false"}
        truth[row["creator_id"]].add(values)
    assert len(truth) == CREATORS
    assert all(len(values) == 1 for values in truth.values())


def test_drawing_depends_on_the_seed_only(tmp_path):
    parameters = {"creators": 5, "images_per_creator": 2}
    render_creators(tmp_path / "one", **parameters, seed=7, processes=1)
    render_creators(tmp_path / "two", **parameters, seed=7, processes=2)
    render_creators(tmp_path / "other", **parameters, seed=8, processes=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert set(contents(tmp_path / "one")) != set(contents(tmp_path / "other"))


def test_every_object_draws_in_every_line(tmp_path):
    pictures = {}
    for picture in plan(creators=72, images_per_creator=24, seed=0):
        pictures.setdefault((picture.object, picture.theme.line), picture)
    assert len(pictures) == len(OBJECTS) * 6
    for picture in pictures.values():
        small = dataclasses.replace(picture, uri="one.jpg", size=(64, 64))
        draw(small, tmp_path)
        with Image.open(tmp_path / "one.jpg") as image:
            assert np.asarray(image.convert("L")).std() > 2, picture


def test_a_second_call_draws_nothing(tmp_path, monkeypatch):
    parameters = {"creators": 2, "images_per_creator": 1, "processes": 1}
    first = render_creators(tmp_path, **parameters)
    before = contents(tmp_path)
    (tmp_path / rows_of(first)[0]["uri"]).write_bytes(b"untouched")

    def refuse(*_):
        raise AssertionError("drew again")

    monkeypatch.setattr(render, "draw", refuse)
    assert render_creators(tmp_path, **parameters) == first
    assert (tmp_path / rows_of(first)[0]["uri"]).read_bytes() == b"untouched"
    assert contents(tmp_path).keys() == before.keys()
    with pytest.raises(AssertionError, match="drew again"):
        render_creators(tmp_path, **(parameters | {"creators": 3}))


def test_other_parameters_replace_the_render_and_nothing_else(tmp_path):
    render_creators(tmp_path, creators=3, images_per_creator=1, processes=1)
    (tmp_path / "notes.txt").write_text("mine")
    manifest = render_creators(tmp_path, creators=2, images_per_creator=1, seed=5, processes=1)
    uris = {row["uri"] for row in rows_of(manifest)}
    assert contents(tmp_path).keys() == uris | {"manifest.csv", "rendered.json", "notes.txt"}


def test_the_manifest_is_written_last_and_an_interrupted_render_is_repeated(tmp_path, monkeypatch):
    parameters = {"creators": 3, "images_per_creator": 1, "processes": 1}
    drawn = []

    def interrupted(picture, folder):
        assert not (folder / "manifest.csv").exists()
        if len(drawn) == 2:
            raise OSError("disk full")
        drawn.append(picture.uri)
        draw(picture, folder)

    monkeypatch.setattr(render, "draw", interrupted)
    with pytest.raises(OSError, match="disk full"):
        render_creators(tmp_path, **parameters)
    assert not (tmp_path / "manifest.csv").exists()
    assert json.loads((tmp_path / "rendered.json").read_text())["parameters"]["creators"] == 3
    monkeypatch.undo()
    manifest = render_creators(tmp_path, **parameters)
    assert all((tmp_path / row["uri"]).exists() for row in rows_of(manifest))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"creators": 0}, "creators must be 1 to 576, got 0"),
        ({"creators": 577}, "got 577"),
        ({"images_per_creator": 0}, "images_per_creator must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"processes": 0}, "processes must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        render_creators(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()
