import numpy as np
import pyarrow as pa
import pytest

from motif import storage
from motif.artefacts import erased
from motif.errors import InputError

WHO, OTHER = "creator-003", "creator-005"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv(erased.KEY_VARIABLE, raising=False)


def test_the_list_holds_hashes_under_a_key_of_its_own(tmp_path):
    folder = str(tmp_path)
    assert not erased.load(folder)
    assert erased.add(folder, [WHO]) == 1
    assert erased.add(folder, [WHO, OTHER]) == 1
    found = erased.load(folder)
    assert [found.holds(c) for c in (WHO, OTHER, "creator-004", "", None)] == [
        *(True, True),
        *(False, False, False),
    ]
    column = pa.chunked_array([[WHO, None], ["creator-004", OTHER, WHO]], pa.string())
    np.testing.assert_array_equal(found.among(column), [True, False, False, True, True])
    text = (tmp_path / "erased.json").read_text()
    assert WHO not in text
    assert found.key.hex() in text  # pseudonymous, as the README says
    assert found.key.hex() not in repr(found)
    elsewhere = tmp_path / "elsewhere"
    erased.add(str(elsewhere), [WHO])
    assert not found.digests & erased.load(str(elsewhere)).digests


def test_a_key_of_ones_own_is_not_in_the_list_and_is_needed(tmp_path, monkeypatch):
    folder, key = str(tmp_path / "list"), tmp_path / "key"
    key.write_text("0123456789abcdef0123\n")
    erased.add(folder, [WHO], key=erased.read_key(str(key)))
    assert "0123456789abcdef" not in (tmp_path / "list" / "erased.json").read_text()
    with pytest.raises(InputError, match="MOTIF_ERASURE_KEY"):
        erased.load(folder)
    monkeypatch.setenv(erased.KEY_VARIABLE, "another key of 16 bytes")
    with pytest.raises(InputError, match="does not fit"):
        erased.load(folder)
    with pytest.raises(InputError, match="does not fit"):
        erased.add(folder, [OTHER], key=erased.read_key())
    monkeypatch.setenv(erased.KEY_VARIABLE, "0123456789abcdef0123")
    assert erased.load(folder).holds(WHO)
    assert erased.add(folder, [OTHER], key=erased.read_key()) == 1
    assert erased.load(folder).holds(OTHER)
    assert storage.read_json(f"{folder}/erased.json")["key"] is None


def test_a_list_keeps_the_key_that_it_was_begun_with(tmp_path, monkeypatch):
    erased.add(str(tmp_path), [WHO])
    monkeypatch.setenv(erased.KEY_VARIABLE, "0123456789abcdef0123")
    erased.add(str(tmp_path), [OTHER], key=erased.read_key())
    found = erased.load(str(tmp_path))
    assert found.holds(WHO)
    assert found.holds(OTHER)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"algorithm": "md5", "key": "00", "key_check": "", "creators": []}']
)
def test_a_damaged_list_stops_every_writer(tmp_path, text):
    (tmp_path / "erased.json").write_text(text)
    with pytest.raises(InputError, match=r"erased\.json"):
        erased.load(str(tmp_path))
    with pytest.raises(InputError, match=r"erased\.json"):
        erased.add(str(tmp_path), [WHO])
    assert (tmp_path / "erased.json").read_text() == text


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("short")
    with pytest.raises(InputError, match="has 5 bytes"):
        erased.read_key(str(tmp_path / "key"))
