"""A network's weights in the bits that a configuration gives them: a file of the size that was searched for.

    bytes = ceil(Σ_t elems_t · b_t / 8),  over all stored parameters        (hwmodel.model_ratio's numerator)

All tensors stand in one stream of bits without gaps: integers q - q_min of b bits, lowest bit first, and
32-bit numbers as they are. A JSON manifest beside it says what stands where, with scales and zero points.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..calibration import ROWS, Ranges
from ..chosen import chosen_bits
from ..front_io import Document
from ..interpreter import Folded
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS
from .bitstream import pack, unpack
from .files import read_file, sha256, write_file, write_together
from .grids import PointGrid, activation_grids, quantized_kernels
from .packed_bounds import bounds_of, with_bounds
from .packed_manifest import Entry, entries, load_manifest, numbers, save_manifest
from .provenance import provenance
from .stored import Stored, counted_bits, stored_tensors


@dataclass(frozen=True)
class Packed:
    """What `save_packed` wrote."""

    bin: str
    manifest: str
    bytes: int  # of the bin
    parameters: int
    model_ratio: float  # bits of the stream over those of float32


def save_packed(path: str | os.PathLike[str], network: QuantizedNetwork, bits: Any) -> Packed:
    """Writes `path`.bin and `path`.json (schemas/packed.schema.json).

    Args:
        path: of the pair, without an ending.
        bits: a `Configuration`, a mapping of point to bit-width, or (n,) bit-widths.

    Raises:
        ValueError: bits of another network; tied operations whose numbers differ; a folder that cannot be
            written to.
    """
    chosen = chosen_bits(network, bits)
    tensors = stored_tensors(network, quantized_kernels(network, chosen))
    _check_size(network, chosen, tensors)
    rows, streams, offset = [], [], 0
    for tensor in tensors:
        values, dtype, width = _integers(tensor)
        aliases = tuple(tensor.aliases)
        entry = Entry(
            tensor.name,
            tensor.part,
            tensor.key,
            tensor.array.shape,
            dtype,
            width,
            offset,
            tensor.grid,
            aliases,
        )
        rows.append(entry.as_dict())
        streams.append((values, width))
        offset += values.size * width
    data = pack(streams)
    place, manifest = Path(f"{os.fspath(path)}.bin"), Path(f"{os.fspath(path)}.json")
    parameters = sum(t.array.size for t in tensors)
    fields = {
        **provenance(network),
        "bin": place.name,
        "sha256": sha256(data),
        "parameters": parameters,
        "stream_bits": offset,
        "quantizer": _flags(network),
        "bits": dict(zip(network.workload.point_names, chosen.tolist(), strict=True)),
        "tensors": rows,
        "activations": _activations(network, activation_grids(network, chosen)),
    }
    if bounds := bounds_of(network):
        fields["bounds"] = bounds
    write_together(
        {place: lambda new: write_file(new, data), manifest: lambda new: save_manifest(new, fields)}
    )
    return Packed(str(place), str(manifest), len(data), parameters, offset / (FULL_BITS * parameters))


def load_packed(path: str | os.PathLike[str], network: QuantizedNetwork) -> QuantizedNetwork:
    """The network of a packed file, for `quantized_logits` at the file's own bits (`packed_bits`).

    Its kernels lie on their grids, and its ranges hold for those bits alone, whatever row is read.

    Args:
        path: of the pair, without an ending.
        network: the same function quantized with the same flags; its weights and ranges do not matter.

    Raises:
        ValueError: a file is missing, damaged, cut off or not the other's; another network.
    """
    document = load_manifest(f"{os.fspath(path)}.json")
    data = _stream(path, document)
    found = entries(document)
    if -(-document.fields["stream_bits"] // 8) != len(data):
        document.fail(f"stream_bits is {document.fields['stream_bits']}, the bin holds {len(data)} bytes")
    _check_network(document, network)
    network = with_bounds(document, network)
    parts: dict[str, dict[str, np.ndarray]] = {"kernels": {}, "biases": {}, "constants": {}, "code": {}}
    grids: dict[str, tuple[PointGrid, tuple[int, ...]]] = {}
    for entry in found:
        array = _values(entry, data)
        parts[entry.part][entry.key] = array
        if entry.part == "kernels" and entry.grid is not None:
            grids[entry.key] = (entry.grid, tuple(range(len(entry.shape))))
        for alias in entry.aliases:
            parts[alias.part][alias.key] = array.transpose(alias.axes).reshape(alias.shape)
            if alias.part == "kernels" and entry.grid is not None:
                grids[alias.key] = (entry.grid, alias.axes)
    for key in document.fields.get("bounds", {}):
        parts["constants"][key] = np.asarray(network.folded.constants[key])
    folded = _folded(document, network, parts)
    return replace(
        network,
        folded=folded,
        ranges=_ranges(document, network, grids),
        name=document.fields["network"],
        weights_source=document.fields["weights_source"],
    )


def packed_bits(path: str | os.PathLike[str], network: QuantizedNetwork) -> np.ndarray:
    """(n,) int32: the bits that a packed file was written at, in the order of the network's points."""
    document = load_manifest(f"{os.fspath(path)}.json")
    return chosen_bits(network, document.numbers("bits", whole=True))


def _integers(tensor: Stored) -> tuple[np.ndarray, str, int]:
    """(k,) unsigned integers, what they are, and their bits."""
    if tensor.grid is None:
        return tensor.array.reshape(-1).view(np.uint32), str(tensor.array.dtype), FULL_BITS
    grid = tensor.grid
    return (tensor.array - grid.q_min).reshape(-1).astype(np.uint32), "uint", grid.bits


def _values(entry: Entry, data: bytes) -> np.ndarray:
    count = int(np.prod(entry.shape, dtype=np.int64))
    words = unpack(data, entry.offset, count, entry.bits)
    if entry.grid is None:
        return words.view(entry.dtype).reshape(entry.shape)
    return entry.grid.values(words.astype(np.int32).reshape(entry.shape) + entry.grid.q_min)


def _check_size(network: QuantizedNetwork, bits: np.ndarray, tensors: list[Stored]) -> None:
    """The stream is what the objective counts, or nothing is written."""
    parameters, counted = counted_bits(network.workload, bits)
    held = sum(t.array.size * (FULL_BITS if t.grid is None else t.grid.bits) for t in tensors)
    if held != counted or parameters != sum(t.array.size for t in tensors):
        raise ValueError(
            f"{network.name!r} carries {held} bits of parameters, and its size objective counts {counted}: "
            "a packed file cannot hold it as counted"
        )


def _stream(path: str | os.PathLike[str], document: Document) -> bytes:
    given = document.fields["bin"]
    wanted = f"{Path(path).name}.bin"
    if given != wanted:
        raise ValueError(f"{path}.json: it belongs to {given!r}, not {wanted!r}: rename both files alike")
    data = read_file(f"{os.fspath(path)}.bin", "save_packed")
    if sha256(data) != document.fields["sha256"]:
        raise ValueError(
            f"{path}.bin: its SHA-256 is not the manifest's (damaged, cut off, or of another network): "
            "write both again with save_packed"
        )
    return data


def _flags(network: QuantizedNetwork) -> dict[str, bool]:
    config = network.config
    return {
        "symmetric_weights": config.symmetric_weights,
        "symmetric_activations": config.symmetric_activations,
        "quantize_pooled_input": config.quantize_pooled_input,
    }


def _activations(network: QuantizedNetwork, grids: dict[int, PointGrid]) -> dict[str, Any]:
    names = network.workload.point_names
    return {
        names[i]: {
            "bits": grid.bits,
            "scale": float(grid.scale),
            "zero_point": int(grid.zero - grid.q_min),
            "low": float(grid.low),
            "high": float(grid.high),
        }
        for i, grid in grids.items()
    }


def _check_network(document: Document, network: QuantizedNetwork) -> None:
    for field in ("network", "weights_source", "bin", "sha256", "frugaljax"):
        if not isinstance(document.fields[field], str):
            document.fail(f"{field} is no string")
    for flag, wanted in _flags(network).items():
        given = document.mapping("quantizer").get(flag)
        if given is not wanted:
            raise ValueError(
                f"{document.path}: {flag} is {given}, the network's is {wanted}: quantize it alike"
            )
    try:
        chosen_bits(network, document.numbers("bits", whole=True))
    except ValueError as error:
        raise ValueError(f"{document.path}: {error}") from None


def _folded(document: Document, network: QuantizedNetwork, parts: dict[str, dict[str, np.ndarray]]) -> Folded:
    made: dict[str, dict[str, Any]] = {}
    for part, old in network.folded._asdict().items():
        given = parts[part]
        made[part] = {}
        for key, array in old.items():
            if key in given:
                if given[key].shape != array.shape:
                    document.fail(
                        f"{part} {key!r} has shape {given[key].shape}, the network's is {array.shape}"
                    )
                made[part][key] = jnp.asarray(given[key], array.dtype)
            elif part == "biases":  # not counted: nothing is added
                made[part][key] = jnp.zeros_like(array)
            else:
                document.fail(f"{part} {key!r} of this network is missing")
        unknown = [key for key in given if key not in old]
        if unknown:
            document.fail(f"{part} {unknown[0]!r} is not in this network")
    return Folded(**made)


def _ranges(
    document: Document, network: QuantizedNetwork, grids: dict[str, tuple[PointGrid, tuple[int, ...]]]
) -> Ranges:
    weights = dict(network.ranges.weights)
    for name, (grid, axes) in grids.items():
        ends = (end.transpose(axes) if end.ndim == len(axes) else end for end in (grid.low, grid.high))
        weights[name] = tuple(jnp.repeat(jnp.asarray(end)[None], ROWS, axis=0) for end in ends)  # type: ignore[assignment]
    low, high = (np.array(end) for end in (network.ranges.low, network.ranges.high))
    names, wanted = network.workload.point_names, document.numbers("bits", whole=True)
    activations = document.mapping("activations")
    for i, point in enumerate(network.workload.points):
        if point.is_weight or wanted[names[i]] == FULL_BITS:
            continue
        given = activations.get(names[i])
        if not isinstance(given, dict) or given.get("bits") != wanted[names[i]]:
            document.fail(f"activations has no {names[i]!r} at {wanted[names[i]]} bits")
        low[i], high[i] = numbers(document, names[i], [given.get("low"), given.get("high")], 2)
    return Ranges(weights, jnp.asarray(low), jnp.asarray(high))
