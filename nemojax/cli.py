"""The console script: nemojax search | evaluate | show | export | train."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

from hwmodel import run_app

from . import cli_evaluate as dataset
from .chip_costs import latency
from .cli_export import export
from .cli_show import CHIP, ChipName, Rates, show
from .cli_texts import parsed_bits, parsed_chip, parsed_names, parsed_pairs, parsed_pins
from .cli_train import train_network
from .configuration import Configuration, load_bits
from .evaluator import scores
from .first_generation import seeds_of
from .front_table import number_text, text_table
from .limits import limits
from .networks import NETWORKS
from .outputs import evaluate_outcome, write_outcome, write_run_report
from .progress import progress
from .quantizers import FULL_BITS
from .run_folder import CHECKPOINT, check_folder, start_folder
from .search import search as run_search
from .setup_run import Prepared, RunSettings, prepare, run_settings
from .space import HIGHEST_BITS, LOWEST_BITS, PAPER_BITS
from .task import costs_by_name

app = typer.Typer(
    name="nemojax",
    help="Search how few bits each tensor of a network needs (NEMO, Miret et al. 2022).",
    epilog="First steps: nemojax search --out first; nemojax show first; nemojax evaluate first/knee.json",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
DEFAULT = RunSettings()
REPORT = "report.html"

Images = Annotated[
    str | None,
    typer.Option(
        help="Folder or zip of photographs: class subfolders, or a labels.csv with columns file,label. "
        "Default: crops of photographs that scikit-learn and scikit-image ship, scored without labels "
        "against the full-precision network."
    ),
]
NetworkName = Annotated[str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")]
Weights = Annotated[
    str,
    typer.Option(help="'imagenet' (package of the pretrained extra), or .pth, .safetensors, .h5, .keras."),
]
Resolution = Annotated[int, typer.Option(help="Pixels of a side; accuracy and time grow with it.")]
TopK = Annotated[int, typer.Option(help="k of the top-k error on labelled images.")]
Seed = Annotated[int, typer.Option(help="Decides images, first generation and every draw.")]
Calibration = Annotated[int, typer.Option(help="Images that set the quantizers' ranges.")]
Reported = Annotated[int, typer.Option(help="Images of the report, which the search never sees.")]
Activation = Annotated[str, typer.Option(help="Ranges of activations: minmax, mean_minmax, percentile, mse.")]


@app.command()
def search(
    out: Annotated[Path, typer.Option(help="Folder for the results; must be new or empty.")],
    images: Images = DEFAULT.images,
    budget: Annotated[int, typer.Option(help="Configurations to evaluate at most.")] = 1000,
    time_limit: Annotated[float | None, typer.Option(help="Seconds of searching at most.")] = None,
    seed: Seed = DEFAULT.seed,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the search in --out, bit for bit.")
    ] = False,
    bits: Annotated[str, typer.Option(help="Bit-widths to choose from, within 2-16.")] = ",".join(
        map(str, PAPER_BITS)
    ),
    pin: Annotated[
        list[str] | None,
        typer.Option(help="NAME=BITS fixes a quantizer; NAME may be a pattern: 'stem.*=8'. Repeatable."),
    ] = None,
    bits_of: Annotated[
        list[str] | None,
        typer.Option(help="NAME=BITS,BITS,... allows a quantizer these bit-widths; NAME may be a pattern."),
    ] = None,
    tie: Annotated[
        list[str] | None,
        typer.Option(help="NAME,NAME,... share one bit-width; each may be a pattern. Repeatable."),
    ] = None,
    pairs: Annotated[
        str, typer.Option(help="Pairs of weight and activation bits that the hardware multiplies: 8x8,4x8.")
    ] = "",
    limit: Annotated[
        list[str] | None,
        typer.Option(help="OBJECTIVE=VALUE is the most allowed: bitops_max=0.1, size=1.2MB. Repeatable."),
    ] = None,
    population: Annotated[int, typer.Option(help="Configurations per generation.")] = DEFAULT.population,
    species: Annotated[str, typer.Option(help="Kinds of members, with commas.")] = ",".join(DEFAULT.species),
    warm_start: Annotated[
        str, typer.Option(help="Sensitivity table that starts the search: fisher, sqnr, or none.")
    ] = DEFAULT.warm_start,
    cache: Annotated[
        Path | None, typer.Option(help="File of evaluations, read and written: known ones cost nothing.")
    ] = None,
    seeds_from: Annotated[
        Path | None, typer.Option(help="front.json or knee.json of another search: the first candidates.")
    ] = None,
    survival: Annotated[str, typer.Option(help="Ranking: nsga3 or nsga2.")] = DEFAULT.survival,
    network: NetworkName = DEFAULT.network,
    weights: Weights = DEFAULT.weights,
    resolution: Resolution = DEFAULT.resolution,
    calibration: Calibration = DEFAULT.calibration,
    search_images: Annotated[
        int, typer.Option(help="Images that a configuration is scored on: more is slower and surer.")
    ] = DEFAULT.search,
    report: Reported = DEFAULT.report,
    top_k: TopK = DEFAULT.top_k,
    activation_range: Activation = DEFAULT.activation_range,
    chip: ChipName = CHIP,
    rate: Rates = None,
) -> None:
    """Search the bit-widths of a network (EfficientNet-Lite0) and write the Pareto front.

    Every weight, activation and residual sum gets 2 to 8 bits so that no other choice found is better in
    error, size and bit-operations at once. The folder then holds front.csv and front.json (all points),
    front.png (the picture), knee.json and knee.png (a balanced point), search.ckpt (to resume), and
    report.html (all of it, for a browser: points to click, their bits, memory and time on a chip).
    """
    started = time.monotonic()
    settings = RunSettings(
        images=images,
        network=network,
        weights=weights,
        resolution=resolution,
        calibration=calibration,
        search=search_images,
        report=report,
        top_k=top_k,
        bits=parsed_bits(bits),
        pins=parsed_pins(pin or []),
        sets=tuple(
            (name, parsed_bits(text, "--bits-of"))
            for name, text in parsed_names(bits_of or [], "--bits-of", "stem.*=4,8")
        ),
        ties=tuple(tuple(text.split(",")) for text in tie or []),
        pairs=parsed_pairs(pairs),
        limits=tuple(parsed_names(limit or [], "--limit", "bitops_max=0.1")),
        activation_range=activation_range,
        population=population,
        species=tuple(species.split(",")),
        survival=survival,
        warm_start=warm_start,
        seed=seed,
    )
    if budget < population:
        raise ValueError(f"--budget must be at least the --population, {population}, got {budget}")
    on_chip = parsed_chip(chip, rate)
    check_folder(out, settings, resume=resume)
    prepared = prepare(settings, _say)
    _say("compiling the network, about 10 s; then one configuration after the other")
    first = None if seeds_from is None else seeds_of(seeds_from, prepared.task.space)
    limits(prepared.task, settings.upper_limits)  # for its ValueError, before anything is written
    if on_chip is not None:
        latency(prepared.task.network.workload, on_chip)  # likewise
    start_folder(out, settings)
    full = prepared.task.full_precision()[0]  # compiles what every configuration will use
    _say(f"full precision: {prepared.task.objectives[0]} {float(full):.4g} on the images of the search")
    try:
        found = run_search(
            jax.random.fold_in(prepared.key, 1),
            prepared.task,
            budget=budget,
            config=settings.nemo,
            limits=settings.upper_limits,
            seeds=first,
            warm_start=None if warm_start == "none" else warm_start,
            cache=cache,
            on_chunk=progress(),
            time_limit_s=time_limit,
            checkpoint=out / CHECKPOINT,
            settings={"run": settings.as_dict(), "budget": budget},
        )
    except KeyboardInterrupt:
        kept = "continue with --resume" if (out / CHECKPOINT).exists() else "no generation was finished"
        _say(f"nemojax: stopped; {kept}")
        raise typer.Exit(130) from None
    _say(f"evaluating {len(found.front)} points and the baselines on {settings.report} images kept for this")
    outcome = evaluate_outcome(found, prepared)
    files = write_outcome(out, outcome, found)
    files.append(out / REPORT)
    write_run_report(out / REPORT, out, prepared.task.network.workload, on_chip)
    _say(f"done in {time.monotonic() - started:.0f} s; {len(found.bits)} configurations evaluated\n")
    print(outcome.front.table(knee=outcome.knee.index))
    print(f"\nThe knee, point {outcome.knee.index}, and uniform bit-widths on the images of the report:")
    print(_against_uniform(outcome.knee, outcome.baselines["uniform"], prepared))
    print(f"\nWritten: {', '.join(str(file) for file in files)}")
    middle = float(np.median(outcome.front.costs[:, 1]))
    print(
        f"Open:  {out / REPORT}     in a browser: points to click, their bits, memory and time\n"
        f"Next:  nemojax show {out} --pick model_ratio={middle:.2g}     choose by a limit\n"
        f"       nemojax evaluate {out / 'knee.json'}     its figures, and the full-precision network's\n"
        f"       nemojax search --images FOLDER --out other     your photographs, by their labels"
    )


@app.command()
def evaluate(
    configurations: Annotated[
        list[str] | None,
        typer.Argument(
            help="A file such as knee.json, or a number: that many bits. With --imagenet none or several."
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Other photographs: see `nemojax search --help`.")
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Another resolution, in pixels of a side.")] = None,
    report: Annotated[int | None, typer.Option(help="Another number of images of the report.")] = None,
    weights: Annotated[str | None, typer.Option(help="Other weights, as `search` takes them.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another draw of the images.")] = None,
    network: dataset.NetworkName = None,
    imagenet: dataset.ImageNet = None,
    classes: dataset.Table = None,
    calibration: dataset.Calibration = None,
    batch: dataset.BatchSize = None,
    threads: dataset.Threads = None,
    json: dataset.Json = None,
) -> None:
    """Measure one configuration beside the full-precision network, on images of the report.

    A file of a search is measured as that search was set up (photographs, resolution, ranges, seed), on the
    images that it kept for the report; options change that. A number uses the defaults of `nemojax search`.

    With --network and --imagenet: any network of the zoo on the whole of ImageNet (see `evaluate_dataset`).
    """
    if network is not None or imagenet is not None:
        if images is not None:
            raise ValueError("--images is for `nemojax search`'s photographs: leave it out, or --imagenet")
        dataset.evaluate_dataset(
            configurations,
            imagenet,
            network,
            weights,
            resolution,
            report,
            seed,
            classes,
            dataset.CALIBRATION if calibration is None else calibration,
            dataset.BATCH if batch is None else batch,
            threads,
            json,
        )
        return
    for option, value in (
        ("classes", classes),
        ("calibration", calibration),
        ("batch", batch),
        ("threads", threads),
        ("json", json),
    ):
        if value is not None:
            raise ValueError(f"--{option} is for --network and --imagenet: leave it out, or give both")
    if configurations is None or len(configurations) != 1:
        raise ValueError("CONFIGURATION must be one file such as knee.json, or a number: that many bits")
    configuration = configurations[0]
    known = [] if configuration.isdigit() else [load_bits(configuration)]
    settings = run_settings(configuration, known[0].settings) if known else DEFAULT
    changes: dict[str, Any] = {
        "images": images,
        "resolution": resolution,
        "report": report,
        "weights": weights,
        "seed": seed,
    }
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    width = int(configuration) if configuration.isdigit() else FULL_BITS
    if width != FULL_BITS and not LOWEST_BITS <= width <= HIGHEST_BITS:
        raise ValueError(f"CONFIGURATION is {width} bits: give 2-16, 32, or a file such as knee.json")
    prepared = prepare(settings, _say)
    names = prepared.task.network.workload.point_names
    full = np.full(len(names), FULL_BITS, np.int32)
    chosen = load_bits(configuration, names).bits if known else np.full_like(full, width)
    rows = np.stack([full, chosen])
    columns = scores(prepared.report, rows, prepared.report_scores)
    for name, cost in costs_by_name(prepared.task.network).items():
        columns[name] = np.asarray(jax.vmap(cost)(jnp.asarray(rows)))
    table = [("", *columns)]
    for i, name in enumerate(("full precision", configuration)):
        table.append((name, *(number_text(float(column[i])) for column in columns.values())))
    print("\n".join(text_table(table)))


app.command()(show)
app.command()(export)
app.command("train")(train_network)


def main() -> None:
    """Runs the console script."""
    run_app(app, "nemojax")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _against_uniform(
    chosen: Configuration, uniform: tuple[np.ndarray, np.ndarray], prepared: Prepared
) -> str:
    """The chosen point beside every uniform bit-width, all on the report's images."""
    objectives = prepared.report.objectives
    table = [("", *objectives)]
    for bits, costs in zip(*uniform, strict=True):
        table.append((f"uniform {int(np.median(bits))} bit", *(number_text(float(c)) for c in costs)))
    own = {**chosen.costs, objectives[0]: chosen.held_out[f"report_{objectives[0]}"]}
    table.append((f"knee (point {chosen.index})", *(number_text(own[name]) for name in objectives)))
    return "\n".join(text_table(table))
