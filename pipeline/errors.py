"""The one error that stages show to a user."""

from collections.abc import Sequence


class PipelineError(Exception):
    """A mistake in what the pipeline was given: a file, a parameter, a missing package.

    The message names the file or parameter, what was expected, what came, and what to do. Stages print it without a
    traceback and exit with code 1; every other exception is a defect of ours and keeps its traceback.
    """


def raise_all(faults: Sequence[str], headline: str) -> None:
    """Raise one :class:`PipelineError` that lists every fault, so that a user mends them all in one go.

    Args:
        faults: One line for each fault, naming its file; nothing is raised when it is empty.
        headline: What is wrong in general and what to do about it.

    Raises:
        PipelineError: If there is at least one fault.
    """
    if not faults:
        return
    shown = list(faults[:MAX_FAULTS_SHOWN])
    if len(faults) > len(shown):
        shown.append(f"… and {len(faults) - len(shown)} more")
    raise PipelineError("\n  - ".join([f"{headline} ({len(faults)} found)", *shown]))


MAX_FAULTS_SHOWN = 50
