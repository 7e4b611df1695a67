"""Which masks of the weak images the student learns from."""

from pipeline.masks.store import MaskStore
from pipeline.training.segmenter_options import StudentOptions
from stages.paths import RunPaths


def open_learnt_masks(paths: RunPaths, options: StudentOptions) -> MaskStore | None:
    """Open the mask store that the options choose; None where nothing is learnt from weak images.

    Raises:
        PipelineError: If the stage that writes it has not run.
    """
    if not options.weak:
        return None
    return MaskStore.open(paths.refined if options.masks == "refined" else paths.pseudo_label)
