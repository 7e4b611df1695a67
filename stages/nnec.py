"""Stage ``nnec``: how far each head's mask may reach."""

from rich.table import Table

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import compute_radii, write_radii
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    ParamsOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.params import load_data_params
from stages.paths import DatasetPaths

app = stage_app("Compute the nearest neighbor exclusion circle (NNEC) of every point.")


@app.command()
@fails_clearly
def main(dataset: DatasetOption = DEFAULT_DATASET, params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Read data/DATASET/prepared, write data/DATASET/nnec/radii.parquet."""
    options = load_data_params(params).nnec
    paths = DatasetPaths(dataset)
    summary = write_radii(paths.nnec / "radii.parquet", compute_radii(Prepared.open(paths.prepared), options))
    table = Table(title=f"{dataset}: exclusion circles", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("images", f"{summary.n_images:,}")
    table.add_row("circles", f"{summary.n_points:,}")
    table.add_row("median radius, px", f"{summary.median_radius_px:,.2f}")
    for flag, count in summary.flagged.items():
        table.add_row(f"flagged {flag}", f"{count:,}")
    console.print(table)


if __name__ == "__main__":
    app()
