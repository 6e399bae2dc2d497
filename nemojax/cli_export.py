"""`nemojax export`: a configuration of a search as files that other tools take."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .configuration import load_bits
from .export import (
    export_jax,
    export_onnx,
    save_operation_bits,
    save_packed,
    save_qwix_rules,
)
from .setup_run import prepare, run_settings


def export(
    configuration: Annotated[str, typer.Argument(help="A file of a search, such as knee.json.")],
    onnx: Annotated[
        Path | None, typer.Option(help="Write an ONNX file with QuantizeLinear and DequantizeLinear.")
    ] = None,
    opset: Annotated[int, typer.Option(help="Of the ONNX file: 21 has 4-bit integers, 25 2-bit ones.")] = 21,
    packed: Annotated[
        Path | None,
        typer.Option(help="Write NAME.bin, the weights in their bits, and NAME.json, what is where."),
    ] = None,
    qwix: Annotated[Path | None, typer.Option(help="Write rules for Qwix as JSON.")] = None,
    jax: Annotated[Path | None, typer.Option(help="Write the quantized function as StableHLO.")] = None,
    operations: Annotated[Path | None, typer.Option(help="Write the bits by operation as JSON.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images that the ONNX and StableHLO files take; default: any number.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Other weights, as `search` takes them.")] = None,
) -> None:
    """Write a configuration's network for another tool.

    The network is prepared as the search was set up (weights, calibration images, ranges), so the files hold
    the quantizers that were searched. Existing files are not overwritten; all are written or none.
    """
    wanted = {"--onnx": onnx, "--qwix": qwix, "--jax": jax, "--operations": operations}
    files = [file for file in wanted.values() if file is not None]
    if packed is not None:
        files += [Path(f"{packed}.bin"), Path(f"{packed}.json")]
    if not files:
        raise ValueError(f"nothing to write: give --packed NAME or one of {', '.join(wanted)} FILE")
    for file in files:
        if file.exists():
            raise ValueError(f"{file} exists: give another name")
        if not file.parent.is_dir():
            raise ValueError(f"{file}: its folder is missing: make it first")
    if onnx is not None and find_spec("onnx") is None:
        raise ValueError("--onnx needs another package: pip install 'frugaljax[onnx]'")
    known = load_bits(configuration)
    settings = run_settings(configuration, known.settings)
    if weights is not None:
        settings = replace(settings, weights=weights)
    network = prepare(settings, _say).task.network
    chosen = load_bits(configuration, network.workload.point_names)

    def write(file: Path | None, what: Callable[[Path], str]) -> None:
        if file is not None:
            print(what(file))

    def write_onnx(file: Path) -> str:
        report = export_onnx(file, network, chosen, batch=batch, opset=opset)
        return (
            f"{file}: ONNX, opset {report.opset}, {report.bytes:,} bytes; {len(report.native)} quantizers "
            f"are native, {len(report.fake)} in a wider type and marked"
        )

    def write_packed(file: Path) -> str:
        made = save_packed(file, network, chosen)
        return f"{made.bin}: {made.bytes:,} bytes, {made.model_ratio:.4f} of float32; see {made.manifest}"

    def write_qwix(file: Path) -> str:
        return f"{file}: {len(save_qwix_rules(file, network, chosen))} rules for Qwix"

    def write_jax(file: Path) -> str:
        return f"{file}: StableHLO, {export_jax(file, network, chosen, batch=batch):,} bytes"

    def write_operations(file: Path) -> str:
        save_operation_bits(file, network, chosen)
        return f"{file}: bits of {len(network.workload.operations)} operations"

    try:
        write(onnx, write_onnx)
        write(packed, write_packed)
        write(qwix, write_qwix)
        write(jax, write_jax)
        write(operations, write_operations)
    except BaseException:  # all or none: the next try would find some of them there
        for file in files:
            file.unlink(missing_ok=True)
        raise


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
