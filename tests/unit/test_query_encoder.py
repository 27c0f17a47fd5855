import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from motif import adjectives, schemas
from motif.artefacts.checkpoint import Checkpoint
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.errors import InputError, SpaceError
from motif.images.decode import decode
from motif.images.preprocess import to_pixels
from motif.model import WhitenedEmbedding
from motif.query_encoder import QueryEncoder
from motif.table import CreatorTable
from tests import made_table, tiny_encoder
from tests.synthetic import make_whitening, publish, rows_of, write_checkpoint

N = 9
IDS = [f"creator-{i}" for i in range(N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("query")


@pytest.fixture(scope="module")
def name(folder) -> str:
    return tiny_encoder.build(folder / "encoder", image_size=32)


@pytest.fixture(scope="module")
def encoder(name) -> Encoder:
    return Encoder(resolve(name), precision=torch.float32, features=True)


@pytest.fixture(scope="module")
def pictures(folder, picture) -> list[Path]:
    """One for each creator."""
    paths = [folder / f"{i}.jpg" for i in range(N)]
    for i, path in enumerate(paths):
        picture(i).save(path, quality=95)
    return paths


@pytest.fixture(scope="module")
def encoded(encoder, pictures):
    preprocess = encoder.space.preprocess
    pixels = [to_pixels(decode(path.read_bytes()).image, preprocess) for path in pictures]
    return encoder.encode_images(np.stack(pixels))


@pytest.fixture(scope="module", params=["embedding", "features"])
def model(request, folder, encoder, encoded) -> str:
    """A checkpoint that reads the one column or the other."""
    dim = getattr(encoded, request.param).shape[1]
    whitening = WhitenedEmbedding(make_whitening(dim, 8))
    path = folder / f"same-{request.param}"
    return write_checkpoint(path, encoder.space, whitening, input_column=request.param)


@pytest.fixture(scope="module")
def table(folder, name, model, encoded) -> CreatorTable:
    rows = rows_of(IDS, encoded.embedding)
    features = schemas.vector_array(encoded.features, item=schemas.HALF)
    path = folder / f"{Path(model).name}.lance"
    publish(path, rows.append_column("features", features), model)
    return CreatorTable.open(str(path), encoder=name)


def png(path: Path) -> bytes:
    file = io.BytesIO()
    Image.open(path).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "give",
    [str, Path, Path.read_bytes, png, Image.open],
    ids=["text", "path", "jpeg", "png", "pil"],
)
def test_the_image_of_a_creator_is_at_its_vector(table, pictures, give):
    """By the same way from the file to SAME as that of the images in the table."""
    for i, path in enumerate(pictures):
        nearest = table.search(image=give(path), k=N).sort_by([("similarity", "descending")])
        assert nearest["creator_id"][0].as_py() == IDS[i]
        # `features` of the table went through float16.
        assert nearest["similarity"][0].as_py() == pytest.approx(1, abs=2e-4)
        assert nearest["similarity"][1].as_py() < 0.999


def test_several_images_are_as_the_creator_who_has_them(table, pictures, name):
    vectors = schemas.matrix(table.get(IDS[:3])["same"])
    found = table.lookalikes(images=pictures[:3], k=N)
    expected = table.lookalikes(vectors.mean(axis=0), N)
    assert found["creator_id"].to_pylist() == expected["creator_id"].to_pylist()
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-3)


def test_a_text_is_encoded_by_the_text_tower(table, encoder, encoded):
    cosines = encoded.embedding @ encoder.encode_texts(["a photo of the sea"])[0]
    found = table.search("a photo of the sea", N)
    assert found["creator_id"].to_pylist() == [IDS[i] for i in np.argsort(-cosines)]
    np.testing.assert_allclose(found["similarity"].to_numpy(), np.sort(cosines)[::-1], atol=1e-6)


def test_any_adjective_is_scored_by_its_oaar_direction(table, encoder, encoded):
    direction = adjectives.directions(["whimsical"], encoder.encode_texts)[0]
    scores = encoded.embedding @ direction
    found = table.rank("whimsical", N)
    assert found["creator_id"].to_pylist() == [IDS[i] for i in np.argsort(-scores)]
    np.testing.assert_allclose(found["score"].to_numpy(), np.sort(scores)[::-1], atol=1e-6)


def test_an_encoder_of_another_space_is_refused(table, folder):
    other = tiny_encoder.build(folder / "other", image_size=32, seed=1)
    asked = CreatorTable.open(table.uri, encoder=other)
    with pytest.raises(SpaceError, match="pass the encoder that its EMBEDDINGS were made with"):
        asked.search("the sea")
    with pytest.raises(SpaceError, match=r"^adjective 'whimsical' is not in .*EMBEDDINGS"):
        asked.rank("whimsical")


def test_a_model_of_another_space_is_refused(table, folder, encoder, name, pictures):
    whitening = WhitenedEmbedding(make_whitening(encoder.space.dim, 8, seed=1))
    other = write_checkpoint(folder / "other-same", encoder.space, whitening)
    asked = CreatorTable.open(table.uri, encoder=name, model=other)
    with pytest.raises(SpaceError, match="pass the checkpoint that it was published with"):
        asked.search(image=pictures[0])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "not_found"),
        (b"", "truncated"),
        (b"my notes", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    ],
)
def test_a_bad_image_is_one_line(table, tmp_path, data, told):
    path = tmp_path / "bad.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        table.search(image=path)
    assert str(caught.value).startswith(f"image {path}: {told}: ")
    if data:
        with pytest.raises(InputError, match=f"^image that was passed: {told}: "):
            table.search(image=data)


def test_what_is_no_image_at_all_is_refused(table):
    for value in (3, {"image": 1}, "http://host/x.jpg"):
        with pytest.raises(InputError):
            table.search(image=value)


def test_the_table_names_encoder_and_model(tmp_path, encoder, model, name, pictures):
    opened = Checkpoint.open(model)
    space = {"fingerprint": opened.fingerprint, "encoder": encoder.space.to_json()}
    recorded = {"space": space, "encoder_source": name, "model": model}
    made_table.write(tmp_path / "c.lance", IDS, dim=encoder.space.dim, **recorded)
    table = CreatorTable.open(str(tmp_path / "c.lance"))
    assert table.search("the sea", 3).num_rows == 3
    vector = QueryEncoder(space, encoder=name, model=model).encode_images(pictures[:1])[0]
    assert table.search(image=pictures[0]).equals(table.lookalikes(vector))


def test_a_table_that_names_neither_asks_for_them(tmp_path, encoder, name, pictures):
    space = {"fingerprint": "0" * 16, "encoder": encoder.space.to_json()}
    made_table.write(tmp_path / "c.lance", IDS, dim=encoder.space.dim, space=space)
    with pytest.raises(InputError, match="pass --encoder"):
        CreatorTable.open(str(tmp_path / "c.lance")).search("the sea")
    with pytest.raises(InputError, match="pass --model"):
        CreatorTable.open(str(tmp_path / "c.lance"), encoder=name).search(image=pictures[0])
