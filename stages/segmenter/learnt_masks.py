"""Which masks of the weak images the student learns from."""

from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.judging import MASKS_FOLDER, THRESHOLDS_FILE, read_thresholds
from pipeline.training.online_teacher import OnlineTeacher
from pipeline.training.segmenter_options import StudentOptions
from stages.paths import RunPaths


def open_learnt_masks(paths: RunPaths, options: StudentOptions) -> MaskStore | None:
    """Open the mask store that the options choose; None where nothing is learnt from weak images.

    Raises:
        PipelineError: If the stage that writes it has not run.
    """
    if not options.weak:
        return None
    places = {
        "pseudo_label": paths.pseudo_label,
        "refined": paths.refined,
        "judged": paths.judged / MASKS_FOLDER,
    }
    return MaskStore.open(places[options.masks])


def open_online_teacher(paths: RunPaths, options: StudentOptions) -> OnlineTeacher | None:
    """Give what labels weak images at each step, by the thresholds that judge wrote; None where it is off.

    Raises:
        PipelineError: If the stage judge has not run.
    """
    unlabeled = options.unlabeled
    if not (options.weak and unlabeled.online):
        return None
    quality, limits = read_thresholds(paths.judged / THRESHOLDS_FILE)
    return OnlineTeacher(unlabeled.detect, quality, limits, unlabeled.pixel_weights)
