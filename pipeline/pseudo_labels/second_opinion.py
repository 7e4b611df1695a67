"""What a second opinion says of the rows of a mask store, written down beside it: judging needs no network then."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compute.files import write_table
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances

NOBODY = "nobody"
"""Name of no opinion: the file is there, so that what a stage writes does not depend on its options."""

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SecondOpinions:
    """Probabilities of the classes for rows of a store.

    Args:
        path: The file, for messages.
        name: Who gave them.
        probs: image_id → ((N,) ``point_id``, (N, C) probabilities).
    """

    path: Path
    name: str
    probs: Mapping[str, tuple[npt.NDArray[np.int64], Floats64]]

    @classmethod
    def open(cls, path: Path) -> "SecondOpinions":
        """Read the file that :func:`write_second_opinions` wrote.

        Raises:
            PipelineError: If it is missing or something else.
        """
        remedy = (
            "judge.correct needs a second opinion; set pseudo_label.opinion to prototypes or clip and run the "
            "pseudo_label stage again, or set judge.correct: false"
        )
        if not path.is_file():
            raise PipelineError(f"{path}: does not exist, and {remedy}")
        try:
            table = pq.read_table(path)
            name = (table.schema.metadata or {}).get(b"opinion", b"").decode()
            n_classes = table.schema.field("probs").type.list_size
        except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
            raise PipelineError(f"{path}: is no table of second opinions ({error}); run pseudo_label again") from error
        if name == NOBODY:
            raise PipelineError(f"{path}: nobody was asked, and {remedy}")
        probs = np.asarray(table["probs"].combine_chunks().flatten(), dtype=np.float64).reshape(-1, n_classes)
        point_id = table["point_id"].to_numpy()
        image_ids = np.asarray(table["image_id"].to_pylist(), dtype=object)
        ends = [*np.flatnonzero(image_ids[1:] != image_ids[:-1]) + 1, len(image_ids)] if len(image_ids) else []
        found = {
            str(image_ids[first]): (point_id[first:end], probs[first:end])
            for first, end in itertools.pairwise([0, *ends])
        }
        return cls(path, name, found)

    def of(self, image_id: str, rows: Instances) -> Floats64:
        """Give the (N, C) probabilities of the rows of an image.

        Raises:
            PipelineError: If a row has none.
        """
        known, probs = self.probs.get(image_id, (np.zeros(0, np.int64), np.zeros((0, 1))))
        order = np.argsort(known)
        place = np.searchsorted(known[order], rows.point_id)
        there = place < len(known)
        there[there] = known[order][place[there]] == rows.point_id[there]
        if not there.all():
            raise PipelineError(
                f"{self.path}: lacks {int((~there).sum())} of {len(rows)} rows of {image_id}: it belongs to another "
                "store; run the pseudo_label stage again"
            )
        return probs[order][place]


def write_second_opinions(
    path: Path, found: Iterator[tuple[str, npt.NDArray[np.int64], Floats64]], *, name: str, n_classes: int
) -> int:
    """Write the probabilities of many images.

    Args:
        path: The file; replaced whole.
        found: ``image_id``, (N,) ``point_id`` and (N, C) probabilities.
        name: Who gives them.
        n_classes: C.

    Returns:
        Number of rows.
    """
    image_ids: list[str] = []
    point_ids, probs = [np.zeros(0, np.int64)], [np.zeros((0, n_classes))]
    for image_id, point_id, values in found:
        image_ids += [image_id] * len(point_id)
        point_ids.append(point_id)
        probs.append(values)
    flat = pa.array(np.concatenate(probs).astype(np.float32).ravel())
    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        "point_id": pa.array(np.concatenate(point_ids)),
        "probs": pa.FixedSizeListArray.from_arrays(flat, n_classes),
    }
    write_table(pa.table(columns).replace_schema_metadata({"opinion": name}), path)
    return len(image_ids)
