"""The console script: egrljax map | train | chips."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import jax
import typer

import hwmodel as hw

from .place import ENGINES, SEARCHES, place
from .place_files import write_placed
from .progress import PlaceProgress, TrainPolicyProgress
from .train import train_policy
from .trained import load_policy, save_policy

app = typer.Typer(
    name="egrljax",
    help="Map a network's tensors to a chip's memories (EGRL, Khadka et al. 2021).",
    epilog="First steps: egrljax map --workload resnet50 --chip nnp_i_tight --out first; egrljax chips",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
CHECKPOINT, BUDGET = "map.ckpt", 4_000


@app.command(name="map")
def map_(
    workload: Annotated[
        str,
        typer.Option(
            help="An .onnx file, a workload .json, a name that `hwmodel zoo` lists, or module:function, "
            "which returns (fn, params, inputs) for tracing fn(params, *inputs)."
        ),
    ],
    chip: Annotated[str, typer.Option(help="A name that `egrljax chips` prints, or a .toml or .json file.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; must be new or empty.")],
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = "auto",
    budget: Annotated[int | None, typer.Option(help=f"Maps that EGRL measures; default: {BUDGET}.")] = None,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    bits: Annotated[int, typer.Option(help="Of weights, outputs and graph inputs.")] = 8,
    batch: Annotated[
        int | None, typer.Option(help="Samples in one call, where the workload leaves it open.")
    ] = None,
    pin: Annotated[list[str] | None, typer.Option(help="TENSOR=LEVEL: it lies there. Repeatable.")] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="TENSOR=LEVEL: it must not lie there. Repeatable.")
    ] = None,
    reserve: Annotated[
        list[str] | None,
        typer.Option(help="LEVEL=BYTES that are not the network's, in the chip's place. Repeatable."),
    ] = None,
    contention: Annotated[
        float | None,
        typer.Option(help="Share of a memory's time that each further stream to it costs; no proof then."),
    ] = None,
    noise: Annotated[float, typer.Option(help="Sigma of a measurement's error; auto searches then.")] = 0.0,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="WxA=OPS_PER_S, say 8x8=1e9: rates in the chip's place. Repeatable."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="A file of `egrljax train`: engine policy answers by it, egrl starts from it."),
    ] = None,
    solver_s: Annotated[float, typer.Option(help="Seconds for optimum and bound; 0: leave them out.")] = 20.0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds of searching at most.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the search in --out, bit for bit, with its budget.")
    ] = False,
) -> None:
    """Place a network in a chip's memories, and say how far that is from the best possible."""
    check_out(out, resume)
    searches = engine in SEARCHES
    if budget is not None and not searches:
        raise ValueError(f"--budget is for a search, engine {engine!r} is none: leave it out, or use 'egrl'")
    work = hw.load_model(workload, batch)
    where = with_reserved(hw.load_chip(chip, hw.parse_rates(rate), warn=False), pairs("reserve", reserve))
    for line in where.warnings:
        hw.say(f"warning: chip {where.name!r}: {line}")
    if solver_s and sys.stderr.isatty():
        hw.say(f"solver: {solver_s:g} s at most for optimum and bound; --solver-s 0 leaves them out")
    found = place(
        jax.random.key(seed),
        work,
        where,
        budget=BUDGET if budget is None else budget,
        engine=engine,
        bits=hw.Bits(bits, bits, bits),
        pins=pairs("pin", pin),
        forbidden=grouped("forbid", forbid),
        contention=contention,
        noise=noise,
        policy=None if policy is None else load_policy(policy),
        solver_s=solver_s,
        time_limit_s=time_limit,
        on_chunk=PlaceProgress(),
        checkpoint=out / CHECKPOINT if searches or resume else None,
    )
    names, packed = write_placed(out, found)
    print(f"{found.text()}\n{packed}\nWritten to {out}: {', '.join(n for n in names if n != CHECKPOINT)}")


@app.command()
def train(
    workload: Annotated[
        list[str], typer.Option(help="As of `map`. Repeatable: the policy learns all of them.")
    ],
    chip: Annotated[list[str], typer.Option(help="As of `map`. Repeatable: every workload on every chip.")],
    out: Annotated[Path, typer.Option(help="File for the policy; must be new, or --resume a training.")],
    budget: Annotated[int, typer.Option(help="Maps that are measured, of all cases together.")] = 8_000,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    bits: Annotated[int, typer.Option(help="Of weights, outputs and graph inputs.")] = 8,
    batch: Annotated[
        int | None, typer.Option(help="Samples in one call, where a workload leaves it open.")
    ] = None,
    contention: Annotated[
        float | None, typer.Option(help="Share of a memory's time that each further stream to it costs.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="WxA=OPS_PER_S, say 8x8=1e9: rates in the chips' place. Repeatable."),
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds at most.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training towards --out, bit for bit.")
    ] = False,
) -> None:
    """Train one policy on several networks and chips: it places others in one forward pass."""
    checkpoint = out.with_name(out.name + ".ckpt")
    if resume and not checkpoint.is_file():
        raise ValueError(f"--out {out} has no {checkpoint.name} beside it to resume: leave --resume out")
    if not resume and (out.exists() or checkpoint.exists()):
        raise ValueError(f"--out {out} must be a new file, or --resume its training")
    chips = [hw.load_chip(name, hw.parse_rates(rate), warn=False) for name in chip]
    cases = [(hw.load_model(name, batch), where) for name in workload for where in chips]
    found = train_policy(
        jax.random.key(seed),
        cases,
        budget=budget,
        bits=hw.Bits(bits, bits, bits),
        contention=contention,
        time_limit_s=time_limit,
        on_chunk=TrainPolicyProgress(),
        checkpoint=checkpoint,
    )
    save_policy(out, found)
    print(f"A policy of {len(found.vector):,} parameters, trained on {', '.join(found.trained_on)}: {out}")


@app.command()
def chips() -> None:
    """List the chips that come with the package; `hwmodel chip show NAME` prints one."""
    print("\n".join(hw.preset_names()))


def check_out(out: Path, resume: bool) -> None:
    """Refuses a folder that holds something, but for a search that is to go on."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: give a folder")
    if resume and not (out / CHECKPOINT).is_file():
        raise ValueError(f"--out {out} holds no {CHECKPOINT} to resume: leave --resume out")
    if not resume and out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} must be a new or an empty folder, or --resume a search in it")


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE texts as a dict; a name may stand once."""
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.rpartition("=")
        if not (equals and name and value):
            raise ValueError(f"--{option} must be NAME=VALUE, got {text!r}")
        if name in found:
            raise ValueError(f"--{option} names {name!r} twice")
        found[name] = value
    return found


def grouped(option: str, given: list[str] | None) -> dict[str, list[str]]:
    """NAME=VALUE texts as lists by name."""
    found: dict[str, list[str]] = {}
    for text in given or []:
        for name, value in pairs(option, [text]).items():
            found.setdefault(name, []).append(value)
    return found


def with_reserved(chip: hw.Chip, reserved: dict[str, str]) -> hw.Chip:
    """The chip with bytes of its levels reserved."""
    levels = list(chip.levels)
    for name, value in reserved.items():
        if not value.isdecimal():
            raise ValueError(f"--reserve must be LEVEL=BYTES, a whole number, got {name}={value}")
        k = chip.level_index(name)
        if levels[k].capacity_bytes is None:
            raise ValueError(f"--reserve {name}={value}: level {name!r} has no capacity, so it is never full")
        levels[k] = replace(levels[k], reserved_bytes=int(value))
    return replace(chip, levels=tuple(levels))


def main() -> None:
    """Runs the console script."""
    hw.run_app(app, "egrljax")
