"""Rounding learned unit by unit so that each gives back what the full-precision network gives there.

AdaRound (Nagel et al. 2020), layer by layer, with asymmetric inputs and the activation function in the loss:

    argmin_V ‖f(W x) - f(W~(V) x^)‖² + λ·f_reg(V)                 Eq. (25)

x is the layer's input in the full-precision network, x^ in the quantized one up to there. BRECQ (Li et al.
2021) has the same loss over blocks; here its weighting by the diagonal Fisher information is left out, as in
QDrop (Wei et al. 2022). Step sizes of activations are learned along as in LSQ (Esser et al. 2020), and
QDrop's random mixture of quantized and full-precision activations is an option.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ..batches import Inputs
from ..chosen import chosen_bits
from ..interpreter import Folded
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, Grid
from .config import PTQConfig
from .grids import learnable, rounded, weight_grid, with_kernels
from .prefix import Prefix, Settings, activation_settings, full_precision, quantizer, run_all
from .rounding import annealed, hard_weights, soft_start, soft_weights, undecided
from .segment import Segment, make_segment
from .units import Unit, find_units


class UnitReport(NamedTuple):
    """What a reconstruction did to one unit."""

    operations: tuple[str, ...]
    before: float  # mean squared error of its outputs over the judging samples, weights rounded to nearest
    after: float  # as reconstructed; `before` if that was no better and was not taken


OnUnit = Callable[[int, int, UnitReport], None]  # unit, of how many, what came of it


def reconstruct(
    key: jax.Array,
    network: QuantizedNetwork,
    bits: Any,
    inputs: Inputs,
    config: PTQConfig,
    on_unit: OnUnit | None = None,
    reference: QuantizedNetwork | None = None,
) -> QuantizedNetwork:
    """The network with its kernels on their grids at `bits`, rounded for the least error of each unit.

    Args:
        bits: in the forms that `improve` takes.
        inputs: calibration samples; those of search and report stay unseen.
        config: `reconstruct` says which units.
        reference: the full-precision network; default: `network` itself. Give the one before where biases
            were corrected.

    Raises:
        ValueError: bits or inputs that do not fit the network, inputs with NaN or infinity.
    """
    bits = chosen_bits(network, bits)
    units = find_units(network.traced, config.reconstruct or "layer")
    chosen = learnable(network, bits)
    prefix = Prefix(network, bits, inputs)
    kernels, full = rounded(network, bits), (reference or network).folded
    low, high = np.array(network.ranges.low), np.array(network.ranges.high)
    chunk = min(network.traced.micro_batch, prefix.samples)
    learned_from = prefix.samples - int(config.held_out * prefix.samples)
    judging = slice(learned_from if learned_from < prefix.samples else 0, None)
    for k, unit in enumerate(units):
        segment = make_segment(network.traced, full, unit, chunk)
        settings = activation_settings(network, bits, segment.points)
        exact, seen = prefix.entries(unit)
        target = run_all(segment, prefix.symmetric, segment.folded(full), full_precision(settings), exact)
        nearest = segment.folded(network.folded._replace(kernels=kernels))
        made = run_all(segment, prefix.symmetric, nearest, settings, seen)
        before = after = _squared_error(made, target, judging)
        names = [name for name in unit.operations if name in chosen]
        if before > 0 and (names or config.learn_activations):
            found, scale = _train(
                jax.random.fold_in(key, k),
                network,
                bits,
                unit,
                names,
                kernels,
                config,
                (exact, seen, target),
                learned_from,
                before,
            )
            again = segment.folded(network.folded._replace(kernels={**kernels, **found}))
            moved = settings.scaled(scale)
            better = run_all(segment, prefix.symmetric, again, moved, seen)
            after = _squared_error(better, target, judging)
            if after < before:
                kernels, made = {**kernels, **found}, better
                for i, a, b, width in zip(segment.points, moved.low, moved.high, moved.bits, strict=True):
                    if width < FULL_BITS:
                        low[i, width], high[i, width] = a, b
            else:  # rounding to nearest was better
                after = before
        if on_unit is not None:
            on_unit(k, len(units), UnitReport(unit.operations, before, after))
        prefix.advance(unit, target, made, units[k + 1 :])
    ranges = network.ranges._replace(low=jnp.asarray(low), high=jnp.asarray(high))
    rebuilt = with_kernels(network, kernels)
    return rebuilt.replace(ranges=ranges)  # type: ignore[attr-defined]


def _training_only(config: PTQConfig) -> PTQConfig:
    """Without what the training itself does not read, so that configs share compilations."""
    return replace(config, equalize=False, correct_bias=False, held_out=0.0, reconstruct="layer")


def _squared_error(made: Sequence[np.ndarray], target: Sequence[np.ndarray], rows: slice) -> float:
    both = zip(made, target, strict=True)
    pairs = [(a[rows], b[rows]) for a, b in both if np.issubdtype(a.dtype, np.floating)]
    total = sum(float(np.mean(np.square(a - b), dtype=np.float64)) * a[0].size for a, b in pairs)
    return total / max(sum(a[0].size for a, _ in pairs), 1)


def _train(
    key: jax.Array,
    network: QuantizedNetwork,
    bits: np.ndarray,
    unit: Unit,
    names: Sequence[str],
    kernels: dict[str, Array],
    config: PTQConfig,
    data: tuple[Sequence[np.ndarray], Sequence[np.ndarray], Sequence[np.ndarray]],
    samples: int,
    nearest_error: float,
) -> tuple[dict[str, Array], Float[Array, " p"]]:
    """Hard kernels of `names`, and the logarithms by which step sizes of the unit's activations grew."""
    largest = max([1, *(a[0].size for part in data for a in part)])
    batch = max(1, min(config.batch, samples, config.step_elements // largest))
    segment = make_segment(network.traced, network.folded, unit, batch, trainable=True)
    local = {name: str(segment.operations.index(name)) for name in names}
    grids = {local[name]: weight_grid(network, bits, name) for name in names}
    start = segment.folded(network.folded._replace(kernels=kernels))
    exact = {local[name]: network.folded.kernels[name] for name in names}
    k_rows, k_drop = jax.random.split(key)
    rows = np.asarray(jax.random.randint(k_rows, (config.steps, batch), 0, samples))
    hard, growth = _optimise(
        segment, _training_only(config), network.config.symmetric_activations, k_drop, rows, start, exact,
        grids,
        activation_settings(network, bits, segment.points), data, np.float32(nearest_error),
    )  # fmt: skip
    return {name: hard[n] for name, n in local.items()}, growth


@partial(jax.jit, static_argnums=(0, 1, 2))
def _optimise(
    segment: Segment,
    config: PTQConfig,
    symmetric: bool,
    key: jax.Array,
    all_rows: Int[Array, "steps batch"],
    folded: Folded,
    exact: dict[str, Array],
    grids: dict[str, Grid],
    settings: Settings,
    data: Any,
    nearest_error: Float[Array, ""],
) -> tuple[dict[str, Array], Float[Array, " p"]]:
    """Hard kernels and the logarithms of the step sizes' growth, after all steps."""
    full_entries, entries, targets = data
    count = sum(w.size for w in exact.values())
    drop = config.drop if segment.points else 0.0

    def loss(variables: Any, key: jax.Array, rows: Array, beta: Array, weight: Array) -> Array:
        v, growth = variables["v"], variables["growth"]
        weights = {n: soft_weights(w, v[n], grids[n]) for n, w in exact.items()}
        mixed = folded._replace(kernels={**folded.kernels, **weights})
        given = [a[rows] for a in entries]
        keys = jax.random.split(key, len(given) + len(segment.points)) if drop else ()
        if drop:
            given = [_mixed(k, a[rows], x, drop) for k, a, x in zip(keys, full_entries, given, strict=False)]
        hook = quantizer(segment, settings.scaled(growth), symmetric, training=True)

        def quantize(i: int, x: Array) -> Array:
            y = hook(i, x)
            k = i - len(segment.operations)
            return _mixed(keys[len(given) + k], x, y, drop) if drop and k >= 0 else y

        made = segment.run(mixed, given, quantize)
        off, elements = jnp.zeros(()), 0
        for y, target in zip(made, targets, strict=True):
            if jnp.issubdtype(y.dtype, jnp.floating):
                right = target[rows].reshape(y.shape)
                off, elements = off + jnp.sum((y - right) ** 2), elements + y.size
        # Departs from Eq. (25): the error is relative to that of rounding to nearest and the regulariser a
        # mean over the weights, so that one λ serves layers and networks of any scale.
        undone = sum((jnp.sum(undecided(v[n], beta)) for n in exact), jnp.zeros(()))
        return off / (elements * nearest_error) + weight * undone / max(count, 1)

    rates: dict[str, Any] = {
        "v": optax.adam(config.learning_rate),
        "growth": optax.adam(config.activation_rate) if config.learn_activations else optax.set_to_zero(),
    }
    optimiser = optax.multi_transform(rates, {"v": "v", "growth": "growth"})
    variables: Any = {
        "v": {n: soft_start(w, grids[n]) for n, w in exact.items()},
        "growth": jnp.zeros(len(segment.points)),
    }

    def step(carry: Any, now: tuple[Array, Array]) -> tuple[Any, None]:
        (variables, state), (i, rows) = carry, now
        t = i.astype(jnp.float32)
        beta = annealed(t, config.steps, config.warmup, *config.beta)
        weight = jnp.where(t < config.warmup * config.steps, 0.0, config.regularization)
        slope = jax.grad(loss)(variables, jax.random.fold_in(key, i), rows, beta, weight)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of the count
            updates, state = optimiser.update(slope, state, variables)
        return (optax.apply_updates(variables, updates), state), None

    times = (jnp.arange(config.steps), all_rows)
    (variables, _), _ = jax.lax.scan(step, (variables, optimiser.init(variables)), times)
    hard = {n: hard_weights(w, variables["v"][n], grids[n]) for n, w in exact.items()}
    return hard, variables["growth"]


def _mixed(key: jax.Array, exact: Array, quantized: Array, drop: float) -> Array:
    """QDrop: each element in full precision with probability `drop`."""
    if not jnp.issubdtype(quantized.dtype, jnp.floating):
        return quantized
    return jnp.where(jax.random.bernoulli(key, drop, quantized.shape), exact, quantized)
