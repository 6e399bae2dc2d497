"""The quantized function as a file that JAX runs anywhere: StableHLO by `jax.export`, weights inside.

The bytes are what `jax.export.deserialize` reads. Behind them stand a line of JSON (schema, provenance,
bits), the SHA-256 of all so far, the length of the line and a mark: `load_jax` checks them.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..batches import fitting
from ..chosen import chosen_or_full
from ..interpreter import execute
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, fake_quantize
from ..space import HIGHEST_BITS
from .files import read_file, sha256, write_file
from .grids import quantized_kernels
from .provenance import provenance

SCHEMA = "frugaljax.nemo.stablehlo/1"
PLATFORMS = ("cpu", "cuda", "tpu")
_MARK = b"frugaljax.stablehlo"
_DIGEST = 64  # characters of a SHA-256


def export_jax(
    path: str | os.PathLike[str],
    network: QuantizedNetwork,
    bits: Any = None,
    *,
    batch: int | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
) -> int:
    """Writes `inputs -> logits` at given bits, with the weights on their grids inside; returns its bytes.

    Args:
        bits: a `Configuration`, a mapping of point to bit-width, (n,) bit-widths; None: 32 everywhere.
        batch: samples; None: any number of them.
        platforms: that it is lowered for.

    Raises:
        ValueError: bits of another network, an unknown platform, a folder that cannot be written to.
    """
    chosen = chosen_or_full(network, bits)
    if batch is not None and not (isinstance(batch, int) and batch >= 1):
        raise ValueError(f"batch must be a number of at least 1, or None for any, got {batch!r}")
    unknown = [p for p in platforms if p not in (*PLATFORMS, "rocm")]
    if unknown or not platforms:
        raise ValueError(f"platforms must be among cpu, cuda, rocm and tpu, got {platforms}")
    function = jax.jit(_function(network, chosen, batch))
    size = jax.export.symbolic_shape("batch")[0] if batch is None else batch
    sample = network.traced.sample
    inputs = jax.tree.map(lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype), sample)
    exported = jax.export.export(function, platforms=platforms)(inputs)
    program = bytes(exported.serialize())
    facts = {
        "schema": SCHEMA,
        **provenance(network),
        "jax": jax.__version__,
        "bits": dict(zip(network.workload.point_names, chosen.tolist(), strict=True)),
    }
    head = json.dumps(facts).encode()
    data = program + head + sha256(program + head).encode() + len(head).to_bytes(8, "little") + _MARK
    write_file(path, data)
    return len(data)


def load_jax(path: str | os.PathLike[str]) -> Callable[[Any], jax.Array]:
    """`inputs -> logits` of a file of `export_jax`; `jax.jit` takes it, too.

    Raises:
        ValueError: the file is missing, damaged, cut off, or none of `export_jax`.
    """
    data = read_file(path, "export_jax")
    end = len(data) - len(_MARK) - 8 - _DIGEST
    if end < 0 or not data.endswith(_MARK):
        raise ValueError(f"{path}: is no whole file of export_jax: write it again")
    if sha256(data[:end]).encode() != data[end : end + _DIGEST]:
        raise ValueError(f"{path}: is damaged (its SHA-256 is another): write it again with export_jax")
    start = end - int.from_bytes(data[end + _DIGEST : end + _DIGEST + 8], "little")
    try:
        facts = json.loads(data[start:end]) if start >= 0 else None
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is of another version's export_jax: write it again")
    program = data[:start]
    try:
        exported = jax.export.deserialize(bytearray(program))
    except Exception as error:
        raise ValueError(
            f"{path}: this JAX ({jax.__version__}) cannot read it ({error}): write it again"
        ) from None
    specs = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][0]
    sample = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), specs)

    def logits(inputs: Any) -> jax.Array:
        """Logits (N, ...) of inputs (N, ...)."""
        return exported.call(fitting(inputs, sample))

    return logits


def _function(network: QuantizedNetwork, bits: np.ndarray, batch: int | None) -> Callable[[Any], jax.Array]:
    """`quantized_logits` at fixed bits, by the primitives themselves, which every platform lowers."""
    kernels = {name: jnp.asarray(k.values) for name, k in quantized_kernels(network, bits).items()}
    folded = network.folded._replace(kernels=kernels)
    points = network.workload.points
    rows = np.minimum(bits, HIGHEST_BITS)
    low, high = (
        np.asarray(end)[np.arange(len(points)), rows] for end in (network.ranges.low, network.ranges.high)
    )

    def quantize(i: int, x: jax.Array) -> jax.Array:
        if points[i].is_weight or bits[i] == FULL_BITS:
            return x
        return fake_quantize(
            x,
            jnp.asarray(low[i]),
            jnp.asarray(high[i]),
            jnp.asarray(bits[i], jnp.int32),
            symmetric=network.config.symmetric_activations,
            straight_through=False,
        )

    def run(inputs: Any, work: Any) -> jax.Array:
        return execute(work, folded, tuple(jax.tree.leaves(inputs)), lowering="xla", quantize=quantize)[0]

    if batch is not None:
        work = network.traced.workload(batch)
        return lambda inputs: run(inputs, work)
    single = network.traced.workload(1)
    # Sizes are numbers in the traced equations, so an open batch is a vmap over samples.
    return jax.vmap(lambda one: run(jax.tree.map(lambda leaf: leaf[None], one), single)[0])
