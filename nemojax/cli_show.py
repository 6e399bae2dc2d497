"""nemojax show: look at a front that is there, and choose from it."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_texts import parsed_chip, parsed_limits
from .configuration import save_bits
from .front import Front
from .outputs import knee, write_run_report
from .plots import plot_bits
from .setup_run import run_settings, workload_of

CHIP = "nnp_i_tight"

ChipName = Annotated[
    str,
    typer.Option(
        help="Chip of the report's panels of memory and time, which the search does not heed: a name that "
        "`hwmodel chip list` prints, a file, or 'none'."
    ),
]
Rates = Annotated[
    list[str] | None,
    typer.Option(help="WxA=OPS_PER_S, say 8x8=1e9: rates of that chip where it has none. Repeatable."),
]


def show(
    result: Annotated[Path, typer.Argument(help="A folder of `nemojax search`, or a front.json.")],
    pick: Annotated[
        list[str] | None,
        typer.Option(
            help="OBJECTIVE=LIMIT: the most exact point within it, say model_ratio=0.2. Repeatable."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Lines of the table.")] = 12,
    save: Annotated[
        Path | None, typer.Option(help="Write the chosen point (default: the knee) as JSON.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Draw the chosen point's bits to this .png file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the page for a browser, as `search` leaves it, to this .html file."),
    ] = None,
    chip: ChipName = CHIP,
    rate: Rates = None,
) -> None:
    """Print a front; choose a point, print its bits by operation, save or draw it; write its report."""
    for file in (save, chart, report):
        if file is not None and file.exists():
            raise ValueError(f"{file} exists: give another name")
    on_chip = parsed_chip(chip, rate) if report is not None else None
    front = Front.from_json(result / "front.json" if result.is_dir() else result)
    balanced = knee(front)
    print(front.table(rows, knee=balanced.index))
    chosen = front.pick(**parsed_limits(pick)) if pick else balanced
    print(f"\n{'The point picked' if pick else 'The knee'}, point {chosen.index}:\n{chosen.table()}")
    if save is not None:
        save_bits(save, chosen)
    if chart is not None:
        plot_bits(chosen).savefig(chart)
    if report is not None:
        workload = None
        if on_chip is not None and "run" in front.settings:
            workload = workload_of(run_settings(str(result), front.settings))
        write_run_report(report, result, workload, on_chip)
