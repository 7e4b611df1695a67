"""The promise that lets people leave a run alone: killed at any moment, the next one ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import compute_radii, write_radii
from pipeline.datasets.synthetic import SyntheticReader
from pipeline.geometry.nnec import NnecOptions
from stages.annotate import app
from tests.datasets.fake_layouts import tree_digest

KILLS = int(os.environ.get("DOTMASK_TEST_KILLS", "2"))
SCENES = "splits: {train: {images: 12, height_px: 128, width_px: 128, heads: [6, 12]}}"
ROOT = Path("data/crowd")
DEADLINE_S = 300.0


def start(cache: str) -> subprocess.Popen[bytes]:
    """Start the stage as a user would, with two workers."""
    command = [sys.executable, "-m", "stages.annotate", "--dataset", "crowd", "--device", "cpu", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*command, "--cache", cache], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def lines_of_log() -> int:
    log = Path("logs/crowd/annotate.jsonl")
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("datasets: [crowd]\nprepare: {sources: {crowd: {reader: synthetic}}}\n")
    (ROOT / "raw").mkdir(parents=True)
    (ROOT / "raw/scenes.yaml").write_text(SCENES)
    prepare_dataset(SyntheticReader(), ROOT / "raw", ROOT / "prepared", ROOT, workers=1)
    write_radii(ROOT / "nnec/radii.parquet", compute_radii(Prepared.open(ROOT / "prepared"), NnecOptions()))
    # In this process, with one worker: the bytes are the same, and it starts in no time.
    done = CliRunner().invoke(app, ["--dataset", "crowd", "--device", "cpu", "--workers", "1", "--cache", "whole"])
    assert done.exit_code == 0, done.output
    whole = tree_digest(ROOT / "annotate")
    usual_s = 0.0
    for number in range(KILLS):
        seed = random.Random(number)
        run = start(f"killed {number}")
        if number % 2:
            time.sleep(seed.uniform(0, usual_s))
        else:  # after some image is done, so that there is work to go on from
            deadline, wanted = time.monotonic() + DEADLINE_S, seed.randint(1, 11)
            while lines_of_log() < wanted and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait(DEADLINE_S)
        kept = {path.name: path.stat().st_mtime_ns for path in Path(f"killed {number}").glob("masks/*/*")}
        assert tree_digest(ROOT / "annotate") == whole  # the old masks are whole until the new ones are
        began = time.monotonic()
        again = start(f"killed {number}")
        assert again.wait(DEADLINE_S) == 0
        usual_s = max(usual_s, time.monotonic() - began)
        assert tree_digest(ROOT / "annotate") == whole
        for path in Path(f"killed {number}").glob("masks/*/*"):  # what was finished was not done again
            assert kept.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
