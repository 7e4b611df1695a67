import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.models.pretrained import (
    CHUNK_BYTES,
    FOLDER_VARIABLE,
    WEIGHTS,
    WeightsFile,
    fetch_weights,
    find_weights,
    require_weights,
    verify_weights,
)

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; may cut a connection, ignore ranges, hide the length, or fail."""

    cut_after: int | None = None
    ranges = True
    length = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if self.server.length:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        self.wfile.write(body if self.server.cut_after is None else body[: self.server.cut_after])

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "weights"))
    return tmp_path / "weights"


def weights_at(server: Server, content: bytes = CONTENT) -> WeightsFile:
    return WeightsFile("model", "model.pth", server.url, hashlib.sha256(content).hexdigest())


def fetch(weights: WeightsFile) -> tuple[Path, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    return fetch_weights(weights, progress=lambda done, total: seen.append((done, total))), seen


def test_fetch_writes_the_file_and_tells_how_far_it_is(server: Server, folder: Path) -> None:
    path, seen = fetch(weights_at(server))
    assert path == folder / "model.pth"
    assert path.read_bytes() == CONTENT
    assert [one.name for one in folder.iterdir()] == ["model.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(CONTENT) < CHUNK_BYTES
    assert server.asked == [None]


def test_what_is_there_is_only_checked(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.pth").write_bytes(CONTENT)
    assert fetch(weights_at(server)) == (folder / "model.pth", [])
    assert server.asked == []
    (folder / "model.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(PipelineError, match=r"model.pth: SHA-256 is [0-9a-f]{64}, expected .* delete it and"):
        fetch(weights_at(server))


def test_a_cut_download_goes_on_where_it_stopped(server: Server, folder: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(PipelineError, match=r"cannot be downloaded .*100000 of 256000 bytes.*goes on from there"):
        fetch(weights_at(server))
    assert not (folder / "model.pth").exists()
    assert (folder / "model.pth.partial").read_bytes() == CONTENT[:100_000]
    server.cut_after = None
    path, seen = fetch(weights_at(server))
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert seen[0] == (len(CONTENT), len(CONTENT))
    assert not (folder / "model.pth.partial").exists()


def test_a_server_without_ranges_starts_anew(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.pth.partial").write_bytes(b"x" * 10)
    server.ranges = False
    path, _ = fetch(weights_at(server))
    assert path.read_bytes() == CONTENT


def test_a_server_that_tells_no_length(server: Server, folder: Path) -> None:
    server.length = False
    path, seen = fetch(weights_at(server))
    assert path.read_bytes() == CONTENT
    assert {total for _, total in seen} == {0}


def test_a_complete_download_that_was_not_renamed_is_used(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.pth.partial").write_bytes(CONTENT)
    path, _ = fetch(weights_at(server))
    assert path.read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_digest_deletes_the_download(server: Server, folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"SHA-256 of the download is .* it was deleted, run the command again"):
        fetch(weights_at(server, b"other"))
    assert list(folder.iterdir()) == []


def test_a_server_that_fails(server: Server, folder: Path) -> None:
    server.status = 503
    with pytest.raises(PipelineError, match=r"cannot be downloaded \(HTTP Error 503"):
        fetch(weights_at(server))


def test_without_a_network_the_message_names_file_and_place(server: Server, folder: Path) -> None:
    weights = weights_at(server)
    server.server_close()
    with pytest.raises(PipelineError) as caught:
        fetch(weights)
    assert weights.url in str(caught.value)
    assert f"Without a network, put the file at {folder / 'model.pth'}" in str(caught.value)
    with pytest.raises(PipelineError) as caught:
        require_weights(weights)
    for part in (str(folder / "model.pth"), weights.url, "python -m stages.weights fetch model", FOLDER_VARIABLE):
        assert part in str(caught.value)


def test_a_folder_that_cannot_be_made(server: Server, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(PipelineError, match="cannot be downloaded"):
        fetch(weights_at(server))


def test_verify(server: Server, folder: Path) -> None:
    with pytest.raises(PipelineError, match="are not there"):
        verify_weights(weights_at(server))
    folder.mkdir()
    (folder / "model.pth").write_bytes(CONTENT)
    assert verify_weights(weights_at(server)) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(PipelineError, match="expected " + "0" * 64):
        verify_weights(WeightsFile("model", "model.pth", server.url, "0" * 64))


def test_shipped_weights_are_never_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipeline.models.pretrained.SHIPPED_FOLDER", tmp_path)
    compact = find_weights("compact")
    assert compact.shipped
    assert compact.path() == tmp_path / "compact.safetensors"
    with pytest.raises(PipelineError, match="it ships with the repository: run git checkout"):
        fetch(compact)
    compact.path().write_bytes(CONTENT)
    assert fetch(compact) == (compact.path(), [])
    assert verify_weights(compact) == hashlib.sha256(CONTENT).hexdigest()


def test_known_weights() -> None:
    assert list(WEIGHTS) == ["compact", "vit_b", "vit_l", "vit_h"]
    for name, weights in WEIGHTS.items():
        assert weights.name == name
        assert weights.shipped or re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
        assert weights.input_px == (256 if name == "compact" else 1024)
        assert weights.url.endswith(weights.file_name) or weights.shipped


def test_weights_lie_in_the_named_folder_or_in_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert WEIGHTS["vit_b"].path() == Path("weights/sam_vit_b_01ec64.pth")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert WEIGHTS["vit_b"].path() == tmp_path / "sam_vit_b_01ec64.pth"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PipelineError, match="'vit_x' is unknown; expected one of compact, vit_b, vit_l, vit_h"):
        find_weights("vit_x")
