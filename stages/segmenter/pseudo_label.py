"""Stage ``pseudo_label`` of the segmenter: the teacher's masks of the weak images, unfiltered."""

from pipeline.compute.device import resolve_device
from pipeline.masks.store import MaskStore
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.segment_inference import write_point_guided
from pipeline.training.segment_pseudo_labels import write_detections, write_opinions
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    DeviceOption,
    LabeledPctOption,
    ParamsOption,
    RefilterOption,
    SeedOption,
    console,
    fails_clearly,
    hand_over,
    stage_app,
)
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs

app = stage_app("Give the weak images the masks that the teacher sees, at their points or wherever any might be.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    refilter: RefilterOption = False,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the teacher of warmup, write mask stores of the weak and of the held-out images below …/seed_SEED."""
    if refilter:
        hand_over("stages.segmenter.judge", dataset=dataset, labeled_pct=labeled_pct, seed=seed, params=params)
        return
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    prepared, options, target = inputs.prepared, settings.pseudo_label, resolve_device(device)
    weights, n_classes = paths.warmup / MODEL_FILE, len(prepared.class_names)
    listed = ""
    for image_ids, splits, out in (
        (inputs.splits.labeled_val, ("train", "val"), paths.held_out),
        (inputs.splits.unlabeled, ("train",), paths.pseudo_label),
    ):
        log = paths.logs / f"{out.name}.jsonl"
        if options.method == "points":
            found = write_point_guided(
                prepared, image_ids, weights, options=options, n_classes=n_classes, seed=seed, out=out, log=log,
                device=target, splits=splits,
            )  # fmt: skip
            listed = ", ".join(f"{n:,} {status}" for status, n in sorted(found.items(), key=lambda one: -one[1]))
        else:
            n_rows = write_detections(
                prepared, image_ids, weights, options=options.detect, n_classes=n_classes, out=out, log=log,
                device=target, splits=splits,
            )  # fmt: skip
            listed = f"{n_rows:,} detections, unfiltered"
    write_opinions(
        prepared, MaskStore.open(paths.annotate), inputs.splits.labeled_train, MaskStore.open(paths.pseudo_label),
        weights, options=options, out=paths.second_opinion, device=target,
    )  # fmt: skip
    console.print(
        f"{len(inputs.splits.unlabeled):,} weak images: {listed or 'no point'}; masks in {paths.pseudo_label}"
    )


if __name__ == "__main__":
    app()
