"""Weights of promptable models: where they lie, where they come from, and that they are what they should be."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError

SHIPPED_FOLDER = Path(__file__).with_name("weights")
FOLDER_VARIABLE = "DOTMASK_WEIGHTS"
DEFAULT_FOLDER = Path("weights")
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
_META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights.

    Args:
        name: What users call it.
        file_name: Its name on disk.
        url: Where it is published; empty for the one that ships with the repository.
        sha256: Its digest in hex; empty for the shipped one, which git keeps.
        size_bytes: Its size; 0 where it is not known.
        input_px: Side of the model's square input.
    """

    name: str
    file_name: str
    url: str = ""
    sha256: str = ""
    size_bytes: int = 0
    input_px: int = 1024

    @property
    def shipped(self) -> bool:
        """Whether the file is part of the repository."""
        return not self.url

    def path(self) -> Path:
        """Where the file is looked for: the repository, ``$DOTMASK_WEIGHTS``, or ``weights/``."""
        folder = SHIPPED_FOLDER if self.shipped else Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
        return folder / self.file_name


WEIGHTS: dict[str, WeightsFile] = {
    weights.name: weights
    for weights in (
        WeightsFile("compact", "compact.safetensors", input_px=256),
        WeightsFile(
            "vit_b",
            "sam_vit_b_01ec64.pth",
            _META + "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375042383,
        ),
        WeightsFile(
            "vit_l",
            "sam_vit_l_0b3195.pth",
            _META + "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        WeightsFile(
            "vit_h",
            "sam_vit_h_4b8939.pth",
            _META + "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2564550879,
        ),
    )
}


def find_weights(name: str) -> WeightsFile:
    """Look a file of weights up by name.

    Raises:
        PipelineError: If the name is unknown.
    """
    if name not in WEIGHTS:
        raise PipelineError(f"weights: '{name}' is unknown; expected one of {', '.join(WEIGHTS)} (annotate.weights)")
    return WEIGHTS[name]


def require_weights(weights: WeightsFile) -> Path:
    """Give the path of weights that are there.

    Raises:
        PipelineError: If they are not; says how to get them, also without a network.
    """
    path = weights.path()
    if path.is_file():
        return path
    if weights.shipped:
        raise PipelineError(
            f"{path}: missing; it ships with the repository: run git checkout -- {path.name} in its folder"
        )
    raise PipelineError(
        f"{path}: the weights '{weights.name}' are not there; run python -m stages.weights fetch {weights.name}, or, "
        f"without a network, put the file from {weights.url} at this path (or name its folder in ${FOLDER_VARIABLE})"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_weights(weights: WeightsFile) -> str:
    """Check a downloaded file's digest and give it back; a shipped file's digest is only computed.

    Raises:
        PipelineError: If the file is missing or differs from the published one.
    """
    path = require_weights(weights)
    found = file_sha256(path)
    if weights.sha256 and found != weights.sha256:
        raise PipelineError(
            f"{path}: SHA-256 is {found}, expected {weights.sha256}; the file is damaged or another one: delete it and "
            f"run python -m stages.weights fetch {weights.name}"
        )
    return found


def fetch_weights(weights: WeightsFile, *, progress: Callable[[int, int], None]) -> Path:
    """Download a file, going on where a broken download stopped, and check its digest before it takes its name.

    Args:
        weights: What to fetch.
        progress: Called with bytes so far and bytes in all (0 if unknown).

    Returns:
        The file's path.

    Raises:
        PipelineError: If there is nothing to fetch, the download fails, or the digest is wrong.
    """
    path = weights.path()
    if weights.shipped or path.is_file():
        verify_weights(weights)
        return path
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(weights.url, partial, progress)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise PipelineError(
            f"{weights.url}: cannot be downloaded ({error}); what has come stays in {partial} and the same command "
            f"goes on from there. Without a network, put the file at {path}"
        ) from error
    found = file_sha256(partial)
    if found != weights.sha256:
        partial.unlink()
        raise PipelineError(
            f"{weights.url}: SHA-256 of the download is {found}, expected {weights.sha256}; it was deleted, run the "
            "command again"
        )
    partial.replace(path)
    return path


def _download(url: str, partial: Path, progress: Callable[[int, int], None]) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send: the digest will tell
            return
        raise
    with response:
        if done and response.status != 206:  # the server sends the whole file
            done = 0
        length = int(response.headers.get("Content-Length") or 0)
        total = done + length if length else 0
        with partial.open("ab" if done else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total and done < total:
        raise OSError(f"the connection closed after {done} of {total} bytes")
