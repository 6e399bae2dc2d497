"""The console script: hwmodel report | chip | zoo."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .bits import Bits
from .chip import Chip, Rate
from .chips.file import TEMPLATE, load_chip, preset_names, preset_text
from .console import parse_rates, run_app, say
from .report.models import load_model
from .report.report import OPTIMAL, PLACEMENTS, make_report, write_report
from .zoo import NAMES, by_name, parameters

app = typer.Typer(
    name="hwmodel",
    help="What a network costs on a chip: latency, its explanation, and the best placement in memory.",
    epilog="First steps: hwmodel report resnet50 --chip nnp_i_tight --out first; hwmodel chip list",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
chip_app = typer.Typer(
    name="chip", help="Chips: list, show, check.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(chip_app)

Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--rate",
        help="WxA=OPS_PER_S, say 8x8=1e9: rates in the place of the chip's; a chip without any needs them. "
        "Repeatable.",
    ),
]


@app.command()
def report(
    model: Annotated[
        str,
        typer.Argument(
            help="An .onnx file, a workload .json, a name that `hwmodel zoo` lists, or module:function, "
            "which returns (fn, params, inputs) for tracing fn(params, *inputs)."
        ),
    ],
    chip: Annotated[str, typer.Option(help="A name that `hwmodel chip list` prints, or a file.")],
    placement: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(PLACEMENTS)}, a .csv (operation, weight_level, output_level; such as "
            "explanation.csv) or a .json of an allocation (such as addresses.json)."
        ),
    ] = OPTIMAL,
    bits: Annotated[int, typer.Option(help="Of weights, outputs and graph inputs.")] = 8,
    batch: Annotated[
        int | None, typer.Option(help="Samples in one call; of the zoo, and of .onnx files.")
    ] = None,
    unknown: Annotated[
        str, typer.Option(help="error, or elementwise: what to do with operators that are not known.")
    ] = "error",
    rate: Rates = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds for the optimum and its proven bound; 0: leave it out.")
    ] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the gradient placement.")] = 0,
    top: Annotated[int, typer.Option(help="Operations to print, longest first; the files have all.")] = 12,
    addresses: Annotated[
        bool, typer.Option("--addresses", help="Pack every memory, too (needs the extra addresses).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report, tables and pictures; must be new or empty.")
    ] = None,
) -> None:
    """Place a network in a chip's memories and say where the time goes.

    Exit code 1 says that the placement does not fit, 2 that something given is wrong.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1, got {top}")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} must be a new or an empty folder")
    where = _chip(chip, rate)
    work = load_model(model, batch, unknown)
    found = make_report(work, where, placement, Bits(bits, bits, bits), time_limit, seed)
    for line in where.warnings:
        say(f"warning: chip {where.name!r}: {line}")
    print(found.text(top))
    if out is not None:
        print(f"\nWritten to {out}: {', '.join(write_report(out, found))}")
    if not found.explanation.fits:
        raise typer.Exit(1)
    if addresses:
        _addresses(found, Bits(bits, bits, bits), out)


@app.command()
def zoo() -> None:
    """List the built-in networks; counts are for a batch of one."""
    print(f"{'name':<18} {'operations':>10} {'parameters':>12} {'GMAC':>8}")
    for name in NAMES:
        work = by_name(name)
        gmac = work.column("macs").sum() / 1e9
        print(f"{name:<18} {len(work.operations):>10} {parameters(work):>12,} {gmac:>8.3f}")


@chip_app.command("list")
def chip_list() -> None:
    """List the chips that come with the package."""
    for name in preset_names():
        try:
            found = load_chip(name, warn=False)
            rates = ", ".join(f"{r.ops_per_s / 1e9:,.6g} GOPS" for r in found.compute)
        except ValueError:  # no published rate
            found, rates = load_chip(name, [Rate(8, 8, 1.0)]), "no published rate: pass --rate"
        print(f"{name}: {' < '.join(found.level_names)}; {rates}")
        for line in found.warnings:
            print(f"    warning: {line}")
    print(f"`hwmodel chip show {TEMPLATE}` prints a file to start from.")


@chip_app.command("show")
def chip_show(
    name: Annotated[str, typer.Argument(help=f"A name that `hwmodel chip list` prints, or {TEMPLATE}.")],
) -> None:
    """Print a chip's file, with its sources."""
    print(preset_text(name), end="")


@chip_app.command("check")
def chip_check(
    file: Annotated[Path, typer.Argument(help="A .toml or .json file.")], rate: Rates = None
) -> None:
    """Say what is wrong with a chip's file, or what it holds. Exit code 1 where something is wrong."""
    try:
        found = _chip(str(file), rate)
    except ValueError as error:
        say(f"hwmodel: error: {error}")
        raise typer.Exit(1) from None
    print(f"{file} is a chip: {found.name}")
    for level in found.levels:
        room = "unlimited" if level.capacity_bytes is None else f"{level.capacity_bytes:,} bytes"
        print(
            f"  {level.name}: {room}, reads {level.read_bytes_per_s:.6g} and writes "
            f"{level.write_bytes_per_s:.6g} bytes/s, source: {level.source or found.source or 'not given'}"
        )
    for one in found.compute:
        print(
            f"  {one.weight_bits}x{one.activation_bits} bits: {one.ops_per_s:.6g} operations/s, source: "
            f"{one.source or found.source or 'not given'}"
        )
    for line in found.warnings:
        print(f"  warning: {line}")


def main() -> None:
    """Runs the console script."""
    run_app(app, "hwmodel")


def _chip(name: str, rates: list[str] | None) -> Chip:
    return load_chip(name, parse_rates(rates), warn=False)


def _addresses(found: Any, bits: Bits, out: Path | None) -> None:
    """Packs the placement's memories and prints how full they get."""
    from .addresses import allocate, save_placement  # its solvers are an optional extra

    packed = allocate(found.workload, found.explanation.chip, found.explanation.placement, bits)
    print(f"\n{packed.report()}")
    if out is not None:
        save_placement(out / "addresses.json", packed)
        save_placement(out / "addresses.csv", packed)
        print(f"Written to {out}: addresses.csv, addresses.json")
