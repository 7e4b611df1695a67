"""The 64 synthetic scenes on which promptable models are judged, frozen before the compact model was trained."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.compute.progress import track
from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.errors import PipelineError

HELD_OUT_FILE = Path(__file__).with_name("held_out.json")
SIZE_HW = (256, 320)
DENSITIES = {"sparse": (8, 14), "medium": (30, 50), "dense": (90, 150)}
SEED_ROOT = 20_261_120
N_SCENES = 64


@dataclass(frozen=True)
class HeldOutScene:
    """One frozen scene.

    Args:
        density: ``sparse``, ``medium`` or ``dense``.
        n_heads: Wanted number of heads.
        seed: Seed of the scene.
    """

    density: str
    n_heads: int
    seed: tuple[int, int]

    def render(self) -> Scene:
        """Draw the scene."""
        return render_scene(np.random.default_rng(self.seed), size_hw=SIZE_HW, n_heads=self.n_heads)


def held_out_scenes() -> list[HeldOutScene]:
    """List the frozen scenes, densities taking turns."""
    scenes = []
    for number in range(N_SCENES):
        density = list(DENSITIES)[number % len(DENSITIES)]
        low, high = DENSITIES[density]
        n_heads = int(np.random.default_rng([SEED_ROOT, number, 1]).integers(low, high + 1))
        scenes.append(HeldOutScene(density, n_heads, (SEED_ROOT, number)))
    return scenes


def truth_digest(scenes: list[Scene]) -> str:
    """SHA-256 of all label maps; tells whether the drawing code still gives the frozen truth."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(np.ascontiguousarray(scene.label_map).tobytes())
    return digest.hexdigest()


def require_frozen(scenes: list[Scene]) -> None:
    """Check that the scenes are the frozen ones.

    Raises:
        PipelineError: If the drawing code gives other truth than when they were frozen.
    """
    wanted, found = json.loads(HELD_OUT_FILE.read_text())["truth_sha256"], truth_digest(scenes)
    if found != wanted:
        raise PipelineError(
            f"{HELD_OUT_FILE}: the held-out scenes changed: SHA-256 of their truth is {found}, frozen was {wanted}; "
            "figures would not compare. Undo the change to pipeline/datasets/crowd_scene, or install the versions of "
            "constraints.txt"
        )


def draw_held_out() -> list[tuple[HeldOutScene, Scene]]:
    """Draw all frozen scenes.

    Raises:
        PipelineError: If they are not the frozen ones any more.
    """
    drawn = [(plan, plan.render()) for plan in track(held_out_scenes(), description="draw", unit="scenes")]
    require_frozen([scene for _, scene in drawn])
    return drawn
