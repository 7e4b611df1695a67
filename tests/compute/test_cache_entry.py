import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.cache_entry import entry_header, load_entry, load_status, remove_if_same, write_renamed

KEY = hashlib.sha256(b"key").hexdigest()
DATA = b"some payload"


def write_entry(folder: Path, data: bytes = DATA) -> Path:
    path = folder / KEY
    write_renamed(path, entry_header("masks", KEY, data), data)
    return path


@given(data=st.binary(max_size=300))
def test_an_entry_comes_back(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write_entry(tmp_path_factory.mktemp("a"), data)
    loaded = load_entry(path, "masks", KEY)
    assert loaded is not None
    assert (loaded.data, loaded.fault) == (data, "")
    status = load_status(path)
    assert status is not None
    assert status.st_size == len(data) + 48


def test_nothing_is_there(tmp_path: Path) -> None:
    assert load_entry(tmp_path / KEY, "masks", KEY) is None
    assert load_status(tmp_path / KEY) is None


def test_a_truncated_entry_is_found_out_wherever_it_ends(tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    whole = path.read_bytes()
    assert len(whole) == 60
    for n_bytes in range(60):
        path.write_bytes(whole[:n_bytes])
        loaded = load_entry(path, "masks", KEY)
        assert loaded is not None
        assert loaded.data == b""
        cut = f"cut off after {n_bytes} bytes" if n_bytes < 48 else f"{n_bytes} bytes long instead of 60"
        assert loaded.fault == cut
        assert load_status(path) is None


def test_a_flipped_bit_is_found_out_wherever_it_is(tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    whole = path.read_bytes()
    for position in range(60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        loaded = load_entry(path, "masks", KEY)
        assert loaded is not None
        assert (loaded.data, bool(loaded.fault)) == (b"", True), position


def test_an_entry_under_anothers_name_is_found_out(tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    for kind, key in (("logits", KEY), ("masks", KEY[::-1])):
        loaded = load_entry(path, kind, key)
        assert loaded is not None
        assert loaded.fault == "its checksum does not fit"


def test_what_cannot_be_read_is_told_and_not_removed(tmp_path: Path) -> None:
    loaded = load_entry(tmp_path, "masks", KEY)
    assert loaded is not None
    assert loaded.fault == "cannot be read: Is a directory"
    assert not remove_if_same(tmp_path, loaded.status)
    assert tmp_path.is_dir()


def test_a_file_that_took_a_damaged_ones_place_stays(tmp_path: Path) -> None:
    path = tmp_path / KEY
    path.write_bytes(b"damaged")
    loaded = load_entry(path, "masks", KEY)
    assert loaded is not None
    write_entry(tmp_path)
    assert remove_if_same(path, loaded.status), "the damaged one is gone"
    assert load_status(path) is not None
    assert remove_if_same(path, path.stat())
    assert not path.exists()
    assert remove_if_same(path, loaded.status)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / KEY
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_renamed(path, b"x")
    assert [one.name for one in tmp_path.iterdir()] == [KEY]
