"""Annotating a whole data set: per-image results into a cache as they come, then the mask store from the cache.

A killed run loses the images that were under way and nothing else; a new image costs one image; another exclusion
threshold costs no network. The store's bytes do not depend on the executor, its workers, or what the cache held.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.annotators.base import Annotator, MarkedImage
from pipeline.annotators.edp_sam import EdpSamAnnotator, choose
from pipeline.annotators.plan import AnnotatorPlan
from pipeline.annotators.proposals import Proposals
from pipeline.compute.cache import ResultCache
from pipeline.compute.executors import Executor
from pipeline.compute.progress import track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import ImageRow, Prepared
from pipeline.datasets.radii import Radii
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance, instances_from_bytes, instances_to_bytes
from pipeline.masks.store import MaskStore

MASKS, LOGITS = "masks", "logits"
"""Kinds of entries in the cache: an image's finished rows, and the network's part of them."""
IMAGES_PER_JOB = {"cpu": 1, "cuda": 8}
"""On a GPU tiles of several images fill a batch; on a CPU an image's bytes must not depend on its neighbours."""


@dataclass(frozen=True)
class ImageJob:
    """One image to annotate; it pickles, and stands for :class:`~pipeline.annotators.base.Marks`.

    Args:
        image: The image.
        points_xy: (N, 2) float64, image pixels; at least one.
        radius_px: (N,) float64, image pixels.
        point_id: (N,) int64.
        class_id: (N,) int64.
        masks_key: Where its rows belong in the cache.
        logits_key: Where the network's part belongs.
        logits: The network's part, where the cache had it.
    """

    image: ImageRow
    points_xy: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    point_id: NDArray[np.int64]
    class_id: NDArray[np.int64]
    masks_key: str = ""
    logits_key: str = ""
    logits: bytes | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.image.size_hw

    def __str__(self) -> str:
        """Name the image."""
        return f"image '{self.image.image_id}'"

    def read(self) -> MarkedImage:
        """Read the image.

        Raises:
            PipelineError: If it cannot be read, or is not what ``prepare`` saw.
        """
        pixels = read_image_rgb(self.image.path)
        marked = MarkedImage(self.image.image_id, pixels, self.points_xy, self.radius_px, self.point_id, self.class_id)
        if marked.size_hw != self.size_hw:
            raise PipelineError(
                f"{self.image.path}: is {marked.size_hw} pixels (height, width), but was {self.size_hw} when it was "
                "prepared; run python -m stages.prepare again"
            )
        return marked


class JobGroup(tuple[ImageJob, ...]):
    """Images that are computed together."""

    __slots__ = ()

    def __str__(self) -> str:
        """Name its images."""
        return ", ".join(map(str, self))


@dataclass(frozen=True)
class Annotated:
    """What a worker gives back for one image.

    Args:
        masks: The rows, as :func:`instances_to_bytes` writes them.
        logits: The network's part, where it was computed and is worth keeping.
        statuses: Rows by status.
    """

    masks: bytes
    logits: bytes | None
    statuses: dict[str, int]


class GroupWorker:
    """Does groups of jobs in one process. It builds the annotator, and loads its weights, when a job first needs it.

    Args:
        plan: The annotator.
        keep_logits: Give back the network's part of fresh results, too.
    """

    def __init__(self, plan: AnnotatorPlan, *, keep_logits: bool) -> None:
        self._plan = plan
        self._keep_logits = keep_logits

    @functools.cached_property
    def _annotator(self) -> Annotator:
        return self._plan.build()

    def __call__(self, jobs: Sequence[ImageJob]) -> list[Annotated]:
        """Annotate the images of a group."""
        if self._plan.method != EdpSamAnnotator.name:
            return [_finished(self._annotator.annotate(job.read()), None) for job in jobs]
        fresh = self._propose([job for job in jobs if job.logits is None])
        results = []
        for job in jobs:
            proposals = Proposals.from_bytes(job.logits) if job.logits is not None else fresh[job.image.image_id]
            packed = proposals.to_bytes() if job.logits is None and self._keep_logits else None
            results.append(_finished(choose(job, proposals, self._plan.options), packed))
        return results

    def _propose(self, jobs: Sequence[ImageJob]) -> dict[str, Proposals]:
        """Read images and do the network's part: image's id → proposals."""
        if not jobs:
            return {}
        with ThreadPoolExecutor(len(jobs)) as pool:
            images = list(pool.map(ImageJob.read, jobs))
        annotator = self._annotator
        assert isinstance(annotator, EdpSamAnnotator)
        return dict(zip([job.image.image_id for job in jobs], annotator.propose(images), strict=True))


def _finished(instances: Instances, logits: bytes | None) -> Annotated:
    return Annotated(instances_to_bytes(instances), logits, dict(Counter(instances.status.tolist())))


def annotate_dataset(
    prepared: Prepared,
    radii: Radii,
    plan: AnnotatorPlan,
    out: Path,
    *,
    executor: Executor,
    cache: ResultCache,
    log: Callable[..., None],
    keep_logits: bool = True,
) -> Counter[str]:
    """Make the masks of every image of a data set.

    Args:
        prepared: Images and points.
        radii: Radii of their exclusion circles.
        plan: The method.
        out: Folder of the mask store; it takes its place only when all images are done.
        executor: Where images are computed.
        cache: Where results are kept, image by image.
        log: Called once per image with its figures, as they come.
        keep_logits: Keep the network's part, so that another exclusion threshold needs no network.

    Returns:
        Rows of the store by status.

    Raises:
        PipelineError: If an image or its radii are not what ``prepare`` and ``nnec`` saw, or cannot be read.
    """
    provenance = plan.provenance()
    jobs = [_job(prepared, radii, plan, provenance, image) for image in prepared.images if image.n_points]
    kept: dict[str, bytes] = {}  # what the cache could not take: a read-only one fails no run
    with cache.in_use():
        for done in track(
            _compute(jobs, plan, executor, cache, kept, keep_logits), description="annotate", total=len(jobs)
        ):
            log(**done)
        return _assemble(prepared, jobs, provenance, plan, out, cache, kept)


def _job(prepared: Prepared, radii: Radii, plan: AnnotatorPlan, provenance: Provenance, image: ImageRow) -> ImageJob:
    points, radius_px = prepared.points(image.image_id), radii.of(image.image_id)
    if len(radius_px) != len(points):
        raise PipelineError(
            f"radii.parquet has {len(radius_px)} radii for image '{image.image_id}', prepare counted {len(points)} "
            "points; run python -m stages.nnec again"
        )
    job = ImageJob(image, points.points_xy, radius_px, points.point_id, points.class_id)
    masks_key, logits_key = plan.keys(provenance, image.digest, job)
    return replace(job, masks_key=masks_key, logits_key=logits_key)


def _compute(
    jobs: Sequence[ImageJob],
    plan: AnnotatorPlan,
    executor: Executor,
    cache: ResultCache,
    kept: dict[str, bytes],
    keep_logits: bool,
) -> Iterator[dict[str, object]]:
    """Compute what the cache does not hold, keep each result at once, and tell of every image."""
    missing = []
    for job in jobs:
        if cache.holds(MASKS, job.masks_key):
            yield {"image_id": job.image.image_id, "n_points": len(job.points_xy), "cached": True}
        else:
            missing.append(job)
    size = IMAGES_PER_JOB["cuda" if plan.device.startswith("cuda") else "cpu"]
    groups = _Groups(missing, size, cache)
    for index, results in executor.run(functools.partial(GroupWorker, plan, keep_logits=keep_logits), groups):
        for job, result in zip(groups.members(index), results, strict=True):
            if result.logits is not None:
                cache.put(LOGITS, job.logits_key, result.logits)
            cache.put(MASKS, job.masks_key, result.masks)
            if not cache.holds(MASKS, job.masks_key):
                kept[job.masks_key] = result.masks
            yield {"image_id": job.image.image_id, "n_points": len(job.points_xy), "cached": False, **result.statuses}


class _Groups(Sequence[JobGroup]):
    """Jobs in groups; what the cache has of the network's part is read when a group goes out, not before."""

    def __init__(self, jobs: Sequence[ImageJob], size: int, cache: ResultCache) -> None:
        self._jobs, self._size, self._cache = jobs, size, cache

    def __len__(self) -> int:
        return -(-len(self._jobs) // self._size)

    def members(self, index: int) -> Sequence[ImageJob]:
        """Give the jobs of a group as they are."""
        return self._jobs[index * self._size : (index + 1) * self._size]

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return JobGroup(replace(job, logits=self._cache.get(LOGITS, job.logits_key)) for job in self.members(index))


def _assemble(
    prepared: Prepared,
    jobs: Sequence[ImageJob],
    provenance: Provenance,
    plan: AnnotatorPlan,
    out: Path,
    cache: ResultCache,
    kept: dict[str, bytes],
) -> Counter[str]:
    """Write the store from the cache, in the images' order; it takes its place at the end."""
    by_image = {job.image.image_id: job for job in jobs}
    statuses: Counter[str] = Counter()
    with MaskStore.create(out, provenance) as writer:
        for image in prepared.images:
            job = by_image.get(image.image_id)
            if job is None:
                writer.add(image.image_id, Instances.empty(image.size_hw))
                continue
            masks = kept.get(job.masks_key) or cache.get(MASKS, job.masks_key)
            if masks is None:  # damaged or removed since it was looked for: make it once more
                masks = GroupWorker(plan, keep_logits=False)([job])[0].masks
            instances = instances_from_bytes(masks, image.size_hw)
            statuses.update(Counter(instances.status.tolist()))
            writer.add(image.image_id, instances)
    return statuses
