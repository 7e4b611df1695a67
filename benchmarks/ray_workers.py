"""Annotating with one Ray actor against two: what a second core brings. Skipped where Ray is not installed."""

import importlib.util
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.crowds import mirrored_crowd
from benchmarks.measure import Row
from pipeline.annotators.edp_sam import EdpSamOptions
from pipeline.annotators.plan import AnnotatorPlan
from pipeline.annotators.run import GroupWorker, ImageJob, JobGroup
from pipeline.compute.executors_ray import RayExecutor
from pipeline.datasets.prepared import ImageRow

IMAGES, HEADS, SIZE_HW = 48, 24, (384, 512)
REACH = 0.6


def measure(*, scale: float = 1.0, method: str = "edp_sam") -> list[Row]:
    """Measure some images; the time until the first result, in which Ray starts and models load, is left out."""
    if importlib.util.find_spec("ray") is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        jobs = _jobs(Path(folder), max(8, round(IMAGES * scale)))
        plan = AnnotatorPlan(method, EdpSamOptions() if method == "edp_sam" else None)
        one, two = (_seconds_per_image(plan, jobs, workers) for workers in (1, 2))
    work = f"{len(jobs)} images of {HEADS} heads, seconds per image"
    return [Row("annotate, 2 Ray workers", work, two, "1 Ray worker", one, f"≤ {REACH} ×", two <= REACH * one)]


def _jobs(folder: Path, count: int) -> list[JobGroup]:
    jobs = []
    for number in range(count):
        marked = mirrored_crowd(HEADS, size_hw=SIZE_HW, seed=number % 4)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(marked.image[:, :, ::-1]))
        row = ImageRow(str(number), path, "train", marked.size_hw, "", len(marked.points_xy))
        jobs.append(JobGroup([ImageJob(row, marked.points_xy, marked.radius_px, marked.point_id, marked.class_id)]))
    return jobs


def _seconds_per_image(plan: AnnotatorPlan, jobs: list[JobGroup], workers: int) -> float:
    """Seconds per image between the first results, one of each worker, and the last one."""
    times = []
    for _ in RayExecutor(workers).run(partial(GroupWorker, plan, keep_logits=False), jobs):
        times.append(time.perf_counter())
    return (times[-1] - times[workers - 1]) / (len(times) - workers)
