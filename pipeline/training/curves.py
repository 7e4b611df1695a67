"""Training curves as DVCLive writes them, for ``dvc plots``."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dvclive.live import Live

CURVES_FOLDER = "dvclive"
"""Folder of the curves beside a model."""


def write_curves(folder: Path, curves: Iterable[tuple[int, Mapping[str, float]]]) -> None:
    """Write one table for each figure below ``folder/plots/metrics`` and the last values to ``folder/metrics.json``.

    They are written when training ends, from figures that its resumable state keeps, so that a resumed run leaves the
    same files as an unbroken one; while it runs, the same figures stand in the log.

    Args:
        folder: DVCLive's folder; replaced.
        curves: Figures by step, in order; names may have a ``/``.
    """
    # DVCLive must neither rewrite dvc.yaml nor save an experiment: the pipeline around it does both.
    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:
        for step, figures in curves:
            live.step = step
            for name, value in figures.items():
                live.log_metric(name, value)
        live.make_summary()
