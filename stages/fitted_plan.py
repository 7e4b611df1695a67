"""What the stage ``annotate`` does before its annotator can be built: training it, where its method asks for that."""

from dataclasses import replace

import torch

from pipeline.annotators.plan import AnnotatorPlan
from pipeline.compute.cache import ResultCache
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import Radii
from pipeline.training.p2seg import FitPlace, fit_p2seg
from pipeline.training.p2seg_options import P2SegOptions
from stages.command import console
from stages.paths import DatasetPaths


def fitted_plan(
    plan: AnnotatorPlan, prepared: Prepared, radii: Radii, paths: DatasetPaths, device: torch.device, cache: ResultCache
) -> AnnotatorPlan:
    """Train ``p2seg`` on the data set's points, unless that has been done; leave other methods as they are.

    Raises:
        PipelineError: If there is nothing to learn from, class maps do not fit, or training diverges.
    """
    if not isinstance(plan.options, P2SegOptions):
        return plan
    place = FitPlace(paths.fitted, paths.logs / "p2seg.jsonl", device, cache)
    fit = fit_p2seg(prepared, radii, plan.options, place)
    for name, value in fit.figures.items():
        console.print(f"{paths.dataset}: class maps, {name.removeprefix('seed_').replace('_', ' ')} {value:.3f}")
    return replace(plan, options=fit.plan, checkpoint=fit.checkpoint)
