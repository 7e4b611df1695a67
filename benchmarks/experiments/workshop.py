"""Where experiments are made: every distinct output of a stage once, in a folder named after all it depends on."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.study import REPOSITORY, Run, Step, Study, merge
from pipeline.compute.files import atomic_write_bytes, digest_json
from pipeline.errors import PipelineError

DONE_FILE = "done"
"""Stands in the folder of a step that is done, with the seconds that it took."""


@dataclass
class Workshop:
    """Does runs; what is done is not done again, and runs that begin alike share what they share.

    Args:
        root: Folder.
        study: The experiment.
    """

    root: Path
    study: Study
    _locks: dict[Path, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder.

        Raises:
            PipelineError: If another one works there.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PipelineError(
                    f"{self.root}: another process makes experiments there; wait for it, or give another --out"
                ) from error
            yield

    def figures_file(self, run: Run) -> Path:
        """Where the figures of a run stand once it is done; with other parameters it is another file."""
        return self.root / "figures" / str(run) / f"{self._folders(run)[-1].name}.json"

    def figures(self, run: Run) -> dict[str, float] | None:
        """Figures of a run; None until it is done."""
        path = self.figures_file(run)
        found: dict[str, float] | None = json.loads(path.read_text()) if path.is_file() else None
        return found

    def do(self, run: Run) -> None:
        """Do what is missing of a run.

        Raises:
            PipelineError: If a stage fails; its output stands in a file that the message names.
        """
        if self.figures_file(run).is_file():
            return
        params = self.parameters(run)
        before = None
        earlier: list[Step] = []
        seconds: list[float | None] = []
        for step, folder in zip(self.study.steps_of(run.variant), self._folders(run), strict=True):
            self._step(earlier, step, run, params, before, folder)
            earlier.append(step)
            before = folder
            if step.timed:
                seconds.append(read_seconds(folder))
        figures = json.loads((self._place(folder, step, run) / "metrics.json").read_bytes())
        if seconds and None not in seconds:
            figures["minutes"] = sum(one for one in seconds if one is not None) / 60
        if self.study.measure is not None:
            figures |= self.study.measure(run, folder / "data" / self.study.name, params)
        atomic_write_bytes(self.figures_file(run), json.dumps(figures, indent=2).encode())

    def parameters(self, run: Run) -> dict[str, Any]:
        """Give the whole parameter file of a run."""
        study = self.study
        base = yaml.safe_load(study.params_of(run.variant).read_text(encoding="utf-8"))
        base["datasets"] = [study.name]
        base["prepare"]["sources"] = {study.name: {"reader": study.reader}}
        return merge(base, study.changes, run.variant.changes)

    def _folders(self, run: Run) -> list[Path]:
        """Give the folder of each step, named after all that it depends on: scenes, parameters, the steps before."""
        params = self.parameters(run)
        folders: list[Path] = []
        for step in self.study.steps_of(run.variant):
            sections = {name: params.get(name) for name in step.sections}  # one that the file lacks takes its defaults
            inputs = [folders[-1].name if folders else self.study.scenes, step.stage, sections]
            if step.per_run:
                inputs += [run.labeled_pct, run.seed]
            folders.append(self.root / step.stage / digest_json(inputs)[:16])
        return folders

    def _step(
        self,
        earlier: Sequence[Step],
        step: Step,
        run: Run,
        params: Mapping[str, Any],
        before: Path | None,
        folder: Path,
    ) -> None:
        """Do one step in its folder, unless it is done."""
        with self._lock(folder):
            if (folder / DONE_FILE).is_file():
                return
            folder.mkdir(parents=True, exist_ok=True)
            if before is None:
                raw = folder / "data" / self.study.name / "raw"
                raw.mkdir(parents=True, exist_ok=True)
                (raw / "scenes.yaml").write_text(yaml.safe_dump(dict(self.study.scenes)))
            else:
                link(folder / "data" / self.study.name / "raw", before / "data" / self.study.name / "raw")
                for one in earlier:
                    self._link_outputs(one, run, before, folder)
            unbroken = not (folder / "begun").exists()
            (folder / "begun").touch()
            began = time.monotonic()
            self._call(step, run, params, folder)
            seconds = time.monotonic() - began if unbroken else None
            atomic_write_bytes(folder / DONE_FILE, json.dumps({"seconds": seconds}).encode())

    def _link_outputs(self, step: Step, run: Run, before: Path, folder: Path) -> None:
        """Show a later step what an earlier one wrote."""
        made, shown = self._place(before, step, run), self._place(folder, step, run)
        link(shown, made)
        for name in step.also:
            if made.with_name(name).exists():
                link(shown.with_name(name), made.with_name(name))

    def _place(self, folder: Path, step: Step, run: Run) -> Path:
        """Output of a step, below the folder of that step or of a later one."""
        data_set = folder / "data" / self.study.name
        per_run = data_set / f"labeled_{run.labeled_pct}" / f"seed_{run.seed}"
        return (per_run if step.per_run else data_set) / step.folder

    def _call(self, step: Step, run: Run, params: Mapping[str, Any], folder: Path) -> None:
        """Run a stage as a user would, in ``folder``."""
        (folder / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False))
        command = [sys.executable, "-m", f"stages.{step.stage}", "--dataset", self.study.name]
        if step.per_run:
            command += ["--labeled-pct", str(run.labeled_pct), "--seed", str(run.seed)]
        command += [option.format(cache=self.root / "cache") for option in step.options]
        settings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        log = folder / f"{step.stage}.log"
        with log.open("w") as out:
            code = subprocess.run(command, cwd=folder, env=settings, stdout=out, stderr=out, check=False).returncode
        if code != 0:
            raise PipelineError(f"{run}: the stage {step.stage} failed; its output stands in {log}")

    def _lock(self, folder: Path) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(folder, threading.Lock())


def read_seconds(folder: Path) -> float | None:
    """Give the wall seconds that a step took; None if it was broken off and went on, or its time was not noted."""
    noted = (folder / DONE_FILE).read_text(encoding="utf-8")
    seconds: float | None = json.loads(noted)["seconds"] if noted else None
    return seconds


def link(place: Path, target: Path) -> None:
    """Make a symbolic link to what an earlier step wrote, unless it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(target.resolve(), target_is_directory=True)
