"""Where experiments are made: every distinct output of a stage once, in a folder named after all it depends on."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.study import REPOSITORY, Run, Step, Study, merge
from pipeline.compute.files import atomic_write_bytes, digest_json
from pipeline.errors import PipelineError


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
        """Where the figures of a run stand once it is done."""
        return self.root / "figures" / str(run) / "metrics.json"

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
        folder = None
        earlier: list[Step] = []
        for step in self.study.steps:
            if step.folder not in run.variant.leaves_out:
                folder = self._step(earlier, step, run, params, folder)
                earlier.append(step)
        assert folder is not None
        metrics = self._place(folder, self.study.steps[-1], run) / "metrics.json"
        atomic_write_bytes(self.figures_file(run), metrics.read_bytes())

    def parameters(self, run: Run) -> dict[str, Any]:
        """Give the whole parameter file of a run."""
        study = self.study
        base = yaml.safe_load((REPOSITORY / study.params).read_text())
        base["datasets"] = [study.name]
        base["prepare"]["sources"] = {study.name: {"reader": study.reader}}
        return merge(base, study.changes, run.variant.changes)

    def _step(
        self, earlier: Sequence[Step], step: Step, run: Run, params: Mapping[str, Any], before: Path | None
    ) -> Path:
        """Do one step, unless it is done; give its folder."""
        sections = {name: params[name] for name in step.sections}
        inputs = [before.name if before else self.study.scenes, step.stage, sections]
        if step.per_run:
            inputs += [run.labeled_pct, run.seed]
        folder = self.root / step.stage / digest_json(inputs)[:16]
        with self._lock(folder):
            if (folder / "done").is_file():
                return folder
            folder.mkdir(parents=True, exist_ok=True)
            if before is None:
                raw = folder / "data" / self.study.name / "raw"
                raw.mkdir(parents=True, exist_ok=True)
                (raw / "scenes.yaml").write_text(yaml.safe_dump(dict(self.study.scenes)))
            else:
                link(folder / "data" / self.study.name / "raw", before / "data" / self.study.name / "raw")
                for one in earlier:
                    self._link_outputs(one, run, before, folder)
            self._call(step, run, params, folder)
            (folder / "done").touch()
        return folder

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


def link(place: Path, target: Path) -> None:
    """Make a symbolic link to what an earlier step wrote, unless it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(target.resolve(), target_is_directory=True)
