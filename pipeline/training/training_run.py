"""One training from start to files: the loop with its resumable state, then weights, curves and figures."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.compute.files import digest_json, fresh_folder, write_json
from pipeline.compute.progress import JsonLines
from pipeline.training.checkpoint import LAST_FILE, MODEL_FILE, RESCUED_FILE, ModelRecord, ResumeFile, save_model
from pipeline.training.choice import Chosen
from pipeline.training.curves import CURVES_FOLDER, write_curves
from pipeline.training.loop import Trained, Training
from pipeline.training.phases import B, LoopSettings, Phase
from pipeline.training.run_place import FIGURES_FILE, RunPlace


@dataclass(frozen=True)
class TrainingRun:
    """What a training is called, what its result depends on, and where it writes.

    Args:
        kind: Kind of model, for its record.
        architecture: What the network was built with, for its record.
        parameters: What it was trained with, for its record.
        inputs: All that the weights depend on beside these, as plain data; a state of other inputs is not taken up.
        options: What all phases share.
        place: Device and folders.
        description: What the progress display calls it: the section of its options.
    """

    kind: str
    architecture: Mapping[str, Any]
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Any]
    options: LoopSettings
    place: RunPlace
    description: str

    def train(
        self,
        net: nn.Module,
        phases: Sequence[Phase[B]],
        *,
        fabric: Fabric,
        evaluate: Callable[[nn.Module, str], dict[str, float]],
        error_name: str,
        oracle: Callable[[nn.Module], dict[str, float]] | None = None,
        early: Mapping[int, str] | None = None,
        extra_figures: Callable[[], Mapping[str, float]] = dict,
    ) -> dict[str, float]:
        """Train, write the result, and give its figures; ranks but the first one write nothing and give none.

        Args:
            net: The network, trained in place.
            phases: What to do.
            fabric: Device, precision and ranks, launched.
            evaluate: Gives the figures of a network on the held-out images after a phase, by its name.
            error_name: Which of these figures chooses the checkpoint; the least wins.
            oracle: Gives the figures of a network on the test images, to report beside.
            early: Step → file name of weights to keep beside the final ones.
            extra_figures: Figures to add, asked for when training has ended.

        Raises:
            PipelineError: If training diverges.
        """
        made_of = [self.kind, self.architecture, self.parameters, self.inputs]
        resume = ResumeFile(self.place.resume, digest=digest_json(made_of))

        def rescue(good: Chosen) -> Path:
            path = self.place.resume / RESCUED_FILE
            self._save(path, good)
            return path

        def keep(weights: Chosen) -> None:
            self._save(self.place.resume / (early or {})[weights.step], weights)

        with self._log(fabric, append=resume.path.is_file()) as log:
            trained = Training(
                net.to(fabric.device).to(memory_format=torch.channels_last),  # convolutions are a fifth faster so
                phases,
                options=self.options,
                fabric=fabric,
                evaluate=evaluate,
                error_name=error_name,
                resume=resume,
                log=log,
                rescue=rescue,
                oracle=oracle,
                keep_at=frozenset(early or {}),
                keep=keep,
            ).run(self.description)
        if not fabric.is_global_zero:
            return {}
        figures = self._write(trained, list((early or {}).values()), extra_figures())
        resume.clear()
        return figures

    def _log(self, fabric: Fabric, *, append: bool) -> AbstractContextManager[JsonLines | None]:
        return JsonLines(self.place.log, append=append) if fabric.is_global_zero else nullcontext()

    def _save(self, path: Path, kept: Chosen) -> None:
        save_model(
            path, kept.weights, ModelRecord(self.kind, self.architecture, self.parameters, kept.step, kept.metrics)
        )

    def _write(self, trained: Trained, early: Sequence[str], extra_figures: Mapping[str, float]) -> dict[str, float]:
        figures = {
            "chosen_step": trained.chosen.step,
            **{f"held_out_{name}": value for name, value in trained.chosen.metrics.items()},
            "last_step": trained.last.step,
            **{f"last_held_out_{name}": value for name, value in trained.last.metrics.items()},
            **extra_figures,
            **{f"oracle_best_{name}": value for name, value in (trained.oracle or {}).items()},
        }
        with fresh_folder(self.place.out) as folder:
            self._save(folder / MODEL_FILE, trained.chosen)
            self._save(folder / LAST_FILE, trained.last)
            for name in early:
                for suffix in (".safetensors", ".json"):
                    kept = (self.place.resume / name).with_suffix(suffix)
                    (folder / kept.name).write_bytes(kept.read_bytes())
            write_curves(folder / CURVES_FOLDER, trained.curves)
            write_json(folder / FIGURES_FILE, figures)
        return figures
