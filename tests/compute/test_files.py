import errno
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compute.files import (
    atomic_write_bytes,
    atomic_write_text,
    digest_file,
    digest_json,
    fresh_folder,
    read_table,
    write_json,
    write_table,
)
from pipeline.errors import PipelineError

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_digest_file_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert digest_file(path) == EMPTY_SHA256
    path.write_bytes(b"x")
    assert digest_file(path) != EMPTY_SHA256


def test_digest_file_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"gone\.jpg: cannot be read"):
        digest_file(tmp_path / "gone.jpg")


def test_digest_json_ignores_key_order_only() -> None:
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    assert digest_json([1, 2]) != digest_json([2, 1])
    assert digest_json({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(("obj", "error"), [(float("nan"), ValueError), ({1, 2}, TypeError)])
def test_digest_json_refuses_what_json_lacks(obj: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"JSON"):
        digest_json(obj)


def test_fresh_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with fresh_folder(target) as folder:
        (folder / "old").write_text("1")
    with fresh_folder(target) as folder:
        assert names_in(folder) == []
        assert names_in(target) == ["old"], "the old folder stays until the block ends"
        (folder / "new").write_text("2")
    assert names_in(target) == ["new"]
    assert names_in(target.parent) == ["out"]


def write_half(target: Path) -> None:
    with fresh_folder(target) as folder:
        (folder / "half").write_text("2")
        raise RuntimeError("killed")


def test_fresh_folder_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with fresh_folder(target) as folder:
        (folder / "kept").write_text("1")
    with pytest.raises(RuntimeError, match="killed"):
        write_half(target)
    assert names_in(tmp_path) == ["out"]
    assert names_in(target) == ["kept"]


def test_fresh_folder_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "half").write_text("1")
    with fresh_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("2")
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["a"]


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    """The kernel's locks belong to an open file, so that a second one in this process stands for another process."""
    target = tmp_path / "out"
    with fresh_folder(target) as folder:
        (folder / "a").touch()
        with pytest.raises(PipelineError, match="out: another process is writing it; wait"), fresh_folder(target):
            pass
        assert (folder / "a").is_file()
    assert (target / "a").is_file()
    with fresh_folder(target) as folder:
        assert not list(folder.iterdir())


def test_where_there_are_no_locks_it_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with fresh_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert (tmp_path / "out" / "a").is_file()


def test_atomic_writes_make_parents_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic_write_bytes(path, b"old")
    atomic_write_text(path, "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    write_json(path, {"b": 1, "a": [1.5, None]})
    assert json.loads(path.read_text()) == {"b": 1, "a": [1.5, None]}
    assert names_in(path.parent) == ["b.txt"]


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"mae": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"mae": float("nan")})
    assert json.loads(path.read_text()) == {"mae": 1.0}


def test_write_table_bytes_do_not_depend_on_chunks_or_pandas(tmp_path: Path) -> None:
    values = np.arange(1000)
    whole = pa.table({"x": values, "s": pa.array([f"n{v % 7}" for v in values])})
    chunked = pa.concat_tables([whole.slice(0, 300), whole.slice(300)]).replace_schema_metadata({"pandas": "{}"})
    write_table(whole, tmp_path / "a.parquet")
    write_table(chunked, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "b.parquet").equals(whole)


def test_read_table_reads_the_columns_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(pa.table({"x": [1, 2], "y": [3, 4]}), path)
    assert read_table(path, made_by="prepare", columns=["y"]).to_pydict() == {"y": [3, 4]}


def test_read_table_names_file_and_stage(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(PipelineError, match=r"t\.parquet: no such file; run prepare first"):
        read_table(path, made_by="prepare")
    path.write_bytes(b"not parquet at all")
    with pytest.raises(PipelineError, match=r"t\.parquet: not a readable Parquet file"):
        read_table(path, made_by="prepare")
    write_table(pa.table({"x": [1]}), path)
    with pytest.raises(PipelineError, match=r"columns radius_px are missing \(it has x\)"):
        read_table(path, made_by="nnec", columns=["radius_px"])
