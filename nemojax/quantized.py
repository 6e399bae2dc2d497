"""A network whose every quantizer takes a traced bit-width: what the search evaluates."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from hwmodel import Workload

from .batches import Inputs, count, specs, standard, take
from .calibration import QuantizerConfig, Ranges, calibrate
from .interpreter import Folded, fold
from .lowering import Lowering, default_lowering
from .networks.network import Network
from .quantizers import fake_quantize
from .space import HIGHEST_BITS
from .traced import Traced, activation_bytes


@struct.dataclass
class QuantizedNetwork:
    """Folded weights and calibrated ranges; a pytree, so that jit takes it as an argument.

    `logits` runs in full precision, `quantized_logits` with one bit-width per point of `workload`.
    """

    folded: Folded
    ranges: Ranges
    traced: Traced = struct.field(pytree_node=False)
    config: QuantizerConfig = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)
    weights_source: str = struct.field(pytree_node=False)

    @property
    def workload(self) -> Workload:
        """The workload at batch 1: operations, and the points in the order of the bits."""
        return self.traced.workload()

    def logits(self, inputs: Inputs, *, chunk: int | None = None) -> Float[Array, "N ..."]:
        """Full precision, through the interpreter. Inputs: see `quantize`."""
        return self.traced.run(self.folded, inputs, chunk=chunk)

    def quantized_logits(
        self,
        bits: Int[Array, " n"],
        inputs: Inputs,
        *,
        chunk: int | None = None,
        straight_through: bool = False,
    ) -> Float[Array, "N ..."]:
        """With point i at bits[i] bits, 2 to 16, or 32 for as it is; `chunk` samples at a time.

        `straight_through` gives roundings a gradient, for training; the numbers are the same.
        """
        row = jnp.minimum(bits, HIGHEST_BITS)
        folded = self._quantized_weights(bits, row, straight_through)
        points, low, high = self.workload.points, self.ranges.low, self.ranges.high

        def quantize(i: int, x: Array) -> Array:
            if points[i].is_weight:  # once per call, above, not once per chunk
                return x
            return fake_quantize(
                x,
                low[i, row[i]],
                high[i, row[i]],
                bits[i],
                symmetric=self.config.symmetric_activations,
                straight_through=straight_through,
            )

        return self.traced.run(folded, inputs, quantize, chunk)

    def _quantized_weights(
        self, bits: Int[Array, " n"], row: Int[Array, " n"], straight_through: bool
    ) -> Folded:
        kernels = dict(self.folded.kernels)
        for op in self.workload.operations:
            if (i := op.weight_point) >= 0:
                low, high = self.ranges.weights[op.name]
                kernels[op.name] = fake_quantize(
                    kernels[op.name],
                    low[row[i]],
                    high[row[i]],
                    bits[i],
                    symmetric=self.config.symmetric_weights,
                    straight_through=straight_through,
                )
        return self.folded._replace(kernels=kernels)


@jax.jit
def compiled_logits(
    network: QuantizedNetwork, bits: Int[Array, "K n"], inputs: Inputs
) -> Float[Array, "K N ..."]:
    """Logits of K configurations, one after the other; compiled once per shape for everyone who calls it.

    On a CPU configurations are not vmapped: XLA would make slow grouped convolutions of their weights.
    """
    shapes = (leaf.shape for leaf in jax.tree.leaves(inputs))
    network.traced.compilations.append((*bits.shape, *(n for shape in shapes for n in shape)))  # jit traces
    return jax.lax.map(lambda row: network.quantized_logits(row, inputs), bits)


def candidate_bytes(network: QuantizedNetwork, inputs: int, chunk: int | None = None) -> int:
    """Bytes that `quantized_logits` needs on so many inputs, `chunk` at a time, beside these: an estimate.

    The candidate's quantized kernels, the activations of a chunk (`activation_bytes`), and where chunks do
    not come out even, the inputs again, filled up. benchmarks/peak_memory.py compares.
    """
    chunk = min(chunk or network.traced.micro_batch, inputs)
    kernels = sum(4 * leaf.size for leaf in jax.tree.leaves(network.folded.kernels))
    again = 0
    if inputs % chunk:
        again = inputs * sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(network.traced.sample))
    return kernels + activation_bytes(network.workload, chunk) + again


def quantize(
    network: Network,
    calibration: Inputs,
    config: QuantizerConfig | None = None,
    *,
    lowering: Lowering | None = None,
) -> QuantizedNetwork:
    """Traces a network, folds its batch norms and calibrates a quantizer at every point.

    Args:
        network: a plain function of its parameters; see `quantizable` for any model.
        calibration: what the function takes, one array (N, ...) or a pytree of them (token ids and a mask,
            say); not those of search or report. Real numbers become float32, whole ones int32.
        config: quantizers and observers.
        lowering: how convolutions run; default: what is fast on this backend.

    Raises:
        ValueError: the function uses what the tracer does not know (named, with its place), gives more than
            one array, takes no such inputs, computes in half precision, or is not finite on the calibration
            inputs; weights that are not finite.
    """
    config = config or QuantizerConfig()
    if count(calibration) < 1:
        raise ValueError("calibration is empty: it needs at least one sample")
    inputs = standard(calibration)
    shapes = jax.eval_shape(lambda params: params, network.params)
    traced = Traced(
        network.apply,
        shapes,
        specs(inputs),
        config.quantize_pooled_input,
        lowering or default_lowering(),
        name=network.name,
    )
    try:
        work = traced.workload()
    except (TypeError, ValueError, flax.errors.FlaxError):
        _check_takes(network, inputs)  # says it in the caller's words, if it is the inputs
        raise
    _check_float32(network.name, work)
    folded = jax.jit(fold, static_argnums=0)(work, network.params)
    _check_finite(folded)
    ranges = calibrate(traced, folded, inputs, config)
    return QuantizedNetwork(folded, ranges, traced, config, network.name, network.weights_source)


def check_quantized(network: object) -> None:
    """ValueError for a network that has no quantizers yet."""
    if isinstance(network, Network):
        raise ValueError(
            f"network {network.name!r} is not quantized yet: give nemo.quantize(network, calibration)"
        )


def _check_takes(network: Network, inputs: Inputs) -> None:
    """ValueError for inputs whose shapes the function refuses."""
    one = take(inputs, slice(1))
    try:
        jax.eval_shape(network.apply, network.params, one)
    except jax.errors.JAXTypeError:
        return  # control flow that depends on data, say: the tracer tells its place
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(one))
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"network {network.name!r} takes no inputs of shape {shapes}: {reason}") from error


def _check_float32(name: str, work: Workload) -> None:
    """ValueError where activations are in half precision: folded weights are float32, and what meets them."""
    program = work.program
    for eqn in program.equations:
        made = [program.values[v] for v in eqn.outputs if not program.is_weight(v)]
        if any(str(value.dtype) in ("bfloat16", "float16") for value in made):
            raise ValueError(
                f"network {name!r} computes in {made[0].dtype} at {eqn.where}: build it with dtype=float32 "
                "(parameters may be of any type)"
            )


def _check_finite(folded: Folded) -> None:
    """ValueError for weights or biases with NaN or infinity, by the name of their operation."""
    for what, by_name in (("weights", folded.kernels), ("biases", folded.biases)):
        for name, array in by_name.items():
            if not np.isfinite(np.asarray(array)).all():
                raise ValueError(f"{what} of {name!r} hold NaN or infinity: check the network's parameters")
