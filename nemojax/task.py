"""A task: what a search minimises over the bit-widths of a network's quantizers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from egrljax import External
from hwmodel import IMAGES, POP, Workload, bit_operations_ratio, check_mesh, model_ratio, sharded

from .batches import Inputs, count, fitting, take
from .chip_costs import ChipCost
from .custom_error import ErrorOfBits, ErrorOfOutputs, HostCost
from .objectives import Disagreement, KLDivergence, Score, TopKError
from .quantized import QuantizedNetwork, check_quantized, compiled_logits
from .quantizers import FULL_BITS
from .space import PAPER_BITS, BitSpace

_WORKLOAD_COSTS: dict[str, Callable[..., Array]] = {
    "model_ratio": model_ratio,
    "bitops_max": partial(bit_operations_ratio, definition="max"),
    "bitops_product": partial(bit_operations_ratio, definition="product"),
}
CostOfBits = Callable[[Array], Any]  # bits (n,) -> (), any JAX function; or a HostCost
DEFAULT_COSTS = ("model_ratio", "bitops_max")


@dataclass(frozen=True)
class _WorkloadCost:
    """One of the built-in costs; equal to any other of the same workload, so that jit knows it again."""

    workload: Workload
    name: str

    def __call__(self, bits: Int[Array, " n"]) -> Float[Array, ""]:
        return _WORKLOAD_COSTS[self.name](self.workload, bits)


@struct.dataclass
class Task:
    """Inputs, their target and the objectives; a pytree, so that jit takes it as an argument."""

    network: QuantizedNetwork
    inputs: Inputs  # N samples, as the network takes them
    # Labels (N,) int32, the full-precision logits (N, classes), or what an error of one's own reads.
    target: Any
    score: Score = struct.field(pytree_node=False)
    costs_of_bits: tuple[tuple[str, CostOfBits], ...] = struct.field(pytree_node=False)
    space: BitSpace = struct.field(pytree_node=False)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the M objectives, the network's error first."""
        return (self.score.name, *(name for name, _ in self.costs_of_bits))

    def cost(self, bits: Int[Array, " n"], *, chunk: int | None = None) -> Float[Array, " M"]:
        """The objectives of one configuration; all +inf where one of them is not finite."""
        if isinstance(self.score, ErrorOfBits):
            return self.cost_of_error(bits, self.score.traced(bits[: len(self.network.workload.points)]))
        return self.cost_of_logits(bits, self.network.quantized_logits(bits, self.inputs, chunk=chunk))

    def cost_of_logits(self, bits: Int[Array, " n"], logits: Float[Array, "N classes"]) -> Float[Array, " M"]:
        """`cost`, given what the configuration makes of the inputs."""
        error = jnp.where(jnp.isnan(logits).any(), jnp.inf, self.score(logits, self.target))
        return self.cost_of_error(bits, error)

    def cost_of_error(self, bits: Int[Array, " n"], error: Float[Array, ""]) -> Float[Array, " M"]:
        """`cost`, given the error of the configuration."""
        row = jnp.stack([error, *(jnp.asarray(cost(bits), error.dtype) for _, cost in self.costs_of_bits)])
        return jnp.where(jnp.isfinite(row).all(), row, jnp.inf)

    def costs_by_bits(self, bits: Int[Array, " n"]) -> Float[Array, " K"]:
        """The objectives of one configuration that need no input: all but the first.

        Those of the host are -inf: nothing is known of them before they are measured.
        """
        costs = [-jnp.inf if isinstance(c, HostCost) else c(bits) for _, c in self.costs_of_bits]
        return jnp.stack([jnp.asarray(cost, jnp.float32) for cost in costs])

    def costs(
        self,
        bits: Int[Array | np.ndarray, "N n"],
        *,
        chunk: int | None = None,
        members: int | None = None,
        mesh: Mesh | None = None,
    ) -> Float[Array, "N M"]:
        """The objectives of N configurations: an ordinary function, to be jitted by the caller.

        Args:
            bits: (N, n) bit-widths, 2-16 or 32.
            chunk: samples alive at once; members: configurations alive at once (vmapped; the default is one
                after the other, because XLA makes slow grouped convolutions of vmapped weights on a CPU).
            mesh: devices that share the configurations by its axis "pop", and the inputs by its axis
                "images"; see `Evaluator` on what that changes.

        Raises:
            ValueError: an objective runs on the host; an `Evaluator` measures those. A mesh of other axes.
        """
        bits = jnp.asarray(bits)
        if mesh is not None:
            return self._costs_over(mesh, bits, chunk, members)
        return _mapped(lambda row: self.cost(row, chunk=chunk), bits, members)

    def _costs_over(self, mesh: Mesh, bits: Array, chunk: int | None, members: int | None) -> Array:
        check_mesh(mesh, (POP, IMAGES))
        if IMAGES not in mesh.axis_names or isinstance(self.score, ErrorOfBits):

            def own(task: Task, rows: Array) -> Array:
                return task.costs(rows, chunk=chunk, members=members)

            return sharded(own, mesh, (None, POP))(self, bits)
        total = count(self.inputs)

        def parts(task: Task, inputs: Inputs, rows: Array) -> Array:
            def one(row: Array) -> Array:
                logits = task.network.quantized_logits(row, inputs, chunk=chunk)
                whole = jax.lax.all_gather(logits, IMAGES, tiled=True)[:total]
                return task.cost_of_logits(row, whole)

            return _mapped(one, rows, members)

        alone = self.replace(inputs=())  # type: ignore[attr-defined]
        return sharded(parts, mesh, (None, IMAGES, POP))(alone, self.inputs, bits)

    def full_precision(self) -> Float[Array, " M"]:
        """The objectives with every point left at 32 bits."""
        bits = jnp.full((1, self.space.size), FULL_BITS, jnp.int32)
        if isinstance(self.score, ErrorOfBits):
            return self.cost(bits[0])
        return self.cost_of_logits(bits[0], compiled_logits(self.network, bits, self.inputs)[0])

    def on(self, inputs: Inputs, target: Any = None, score: Score | None = None) -> "Task":
        """The same network, ranges and space on other inputs: for the report after a search.

        Args:
            target: labels; None: the full-precision logits of `inputs`.
            score: another error, say top-1 instead of top-5.

        Raises:
            ValueError: inputs of another shape, labels that are not theirs, or a score that needs the
                other kind of target.
        """
        score = score or self.score
        if isinstance(score, ErrorOfBits):
            raise ValueError(f"{score.name} is a function of the bits: it has no inputs to be on")
        if isinstance(score, ErrorOfOutputs):
            inputs = fitting(inputs, self.network.traced.sample)
            return self.replace(inputs=inputs, target=jax.tree.map(jnp.asarray, target), score=score)  # type: ignore[attr-defined]
        if isinstance(score, TopKError) and target is None:
            raise ValueError(f"{score.name} needs labels: give target=labels, or another score")
        if isinstance(score, KLDivergence | Disagreement) and target is not None:
            raise ValueError(
                f"{score.name} compares with the full-precision logits: leave target out, or change score"
            )
        inputs, target = _checked(self.network, inputs, target)
        _check_score(score, self.network, inputs)
        return self.replace(inputs=inputs, target=target, score=score)  # type: ignore[attr-defined]


def classification(
    network: QuantizedNetwork,
    inputs: Inputs,
    labels: Int[Any, " N"],
    *,
    top_k: int = 5,
    space: BitSpace | None = None,
    costs: Sequence[str] | Mapping[str, CostOfBits] = DEFAULT_COSTS,
) -> Task:
    """Minimise the top-k error on labelled inputs, and `costs` (see `costs_by_name`)."""
    inputs, labels = _checked(network, inputs, labels)
    return _task(network, inputs, labels, TopKError(top_k), space, costs)


def fidelity(
    network: QuantizedNetwork,
    inputs: Inputs,
    *,
    measure: Literal["kl", "disagreement"] = "kl",
    space: BitSpace | None = None,
    costs: Sequence[str] | Mapping[str, CostOfBits] = DEFAULT_COSTS,
) -> Task:
    """Without labels: minimise the distance from the full-precision network, and `costs`."""
    measures: dict[str, type[Score]] = {"kl": KLDivergence, "disagreement": Disagreement}
    if measure not in measures:
        raise ValueError(f"measure must be one of {sorted(measures)}, got {measure!r}")
    inputs, target = _checked(network, inputs, None)
    return _task(network, inputs, target, measures[measure](), space, costs)


def features_task(
    network: QuantizedNetwork,
    inputs: Inputs,
    error: Callable[[Any, Any], Any],
    target: Any = None,
    *,
    name: str = "error",
    worst: float = 1.0,
    host: bool = False,
    space: BitSpace | None = None,
    costs: Sequence[str] | Mapping[str, CostOfBits] = DEFAULT_COSTS,
) -> Task:
    """Minimise anybody's error of what a network makes of the inputs, and `costs`.

    Args:
        network: whose outputs the error reads: features, say of `headless(network)`.
        inputs: N samples; the network runs them in chunks, one configuration after the other.
        error: (outputs (N, ...), target) -> a number; a JAX function, or with `host`, or as an `external`,
            any function, which is then given NumPy arrays between two compiled programs and cannot run inside
            `Task.costs`.
        target: whatever the error needs besides, a pytree of arrays: labels, drawn episodes.
        name: of the objective.
        worst: the error that still counts in a hypervolume, 1 for shares.

    Raises:
        ValueError: the error is no function of these, or gives more than one number.
    """
    check_quantized(network)
    inputs = fitting(inputs, network.traced.sample)
    target = jax.tree.map(jnp.asarray, target)
    score = ErrorOfOutputs(name, error, worst, host or isinstance(error, External))
    outputs = jax.eval_shape(network.logits, inputs)
    score.check(outputs, target)
    return _task(network, inputs, target, score, space, costs)


def bits_task(
    network: QuantizedNetwork,
    error: Callable[[Any], Any],
    *,
    inputs: Inputs = (),
    name: str = "error",
    worst: float = 1.0,
    host: bool = False,
    space: BitSpace | None = None,
    costs: Sequence[str] | Mapping[str, CostOfBits] = DEFAULT_COSTS,
) -> Task:
    """Minimise anybody's error of the bit-widths alone, bits (n,) -> a number, and `costs`.

    Args:
        network: whose points the bit-widths are of; it is not run.
        error: a JAX function, or with `host`, or as an `external`, any function of a NumPy array.
        inputs: only for a warm start, which measures the network on them; without, `search` needs
            `warm_start=None` or a table.
        name, worst: as of `features_task`.

    Raises:
        ValueError: the error is no such function, or gives more than one number.
    """
    check_quantized(network)
    inputs = fitting(inputs, network.traced.sample) if jax.tree.leaves(inputs) else ()
    score = ErrorOfBits(name, error, worst, host or isinstance(error, External))
    score.check(len(network.workload.points))
    return _task(network, inputs, None, score, space, costs)


def _mapped(one: Callable[[Array], Array], rows: Array, members: int | None) -> Array:
    return jax.lax.map(one, rows) if members is None else jax.lax.map(one, rows, batch_size=members)


def costs_by_name(network: QuantizedNetwork) -> dict[str, CostOfBits]:
    """The built-in costs of bits: model_ratio, bitops_max (NEMO's), bitops_product (HAWQ's)."""
    return {name: _WorkloadCost(network.workload, name) for name in _WORKLOAD_COSTS}


def search_space(
    network: QuantizedNetwork,
    bits: Sequence[int] = PAPER_BITS,
    pins: Mapping[str, int] | None = None,
    sets: Mapping[str, Sequence[int]] | None = None,
    ties: Sequence[str | Sequence[str]] = (),
    pairs: Sequence[tuple[int, int]] | None = None,
) -> BitSpace:
    """The space of a network's points, `pairs` about each weight and what feeds its operations.

    See BitSpace.create. An operation whose input has no quantizer (32 bits) is bound by no pair.
    """
    feeds = [(op.weight_point, op.input_point) for op in network.workload.operations]
    feeds = [feed for feed in feeds if min(feed) >= 0]
    names = network.workload.point_names
    return BitSpace.create(names, bits, pins, sets=sets, ties=ties, pairs=pairs, feeds=feeds)


def _task(
    network: QuantizedNetwork,
    inputs: Inputs,
    target: Any,
    score: Score,
    space: BitSpace | None,
    costs: Sequence[str] | Mapping[str, CostOfBits],
) -> Task:
    space = space or BitSpace.create(network.workload.point_names)
    if space.names != network.workload.point_names:
        raise ValueError("space is of another network: make it with search_space(network, bits)")
    known = costs_by_name(network)
    if not isinstance(costs, Mapping):
        unknown = [name for name in costs if name not in known]
        if unknown:
            raise ValueError(f"costs holds {unknown[0]!r}; by name there are {sorted(known)}")
        costs = {name: known[name] for name in costs}
    if not isinstance(score, ErrorOfBits | ErrorOfOutputs):
        _check_score(score, network, inputs)
    if not costs:
        raise ValueError("costs is empty: a multi-objective search needs one besides the error")
    if score.name in costs:
        raise ValueError(f"costs holds {score.name!r}, which is the error's name: choose another")
    costs = {name: _of_host(name, cost, space) for name, cost in costs.items()}
    for name, cost in costs.items():
        if known.get(name) != cost and not isinstance(cost, HostCost):
            _check_cost(name, cost, space)
    return Task(network, inputs, target, score, tuple(costs.items()), space)


def _of_host(name: str, cost: CostOfBits, space: BitSpace) -> CostOfBits:
    """One that is not JAX under its name in the task; any other as it is."""
    cost = HostCost(cost) if isinstance(cost, External) else cost
    if not isinstance(cost, HostCost):
        return cost
    return replace(cost, name=name, highest=tuple(space.uniform(space.widths[-1]).tolist()))


def _check_cost(name: str, cost: CostOfBits, space: BitSpace) -> None:
    """Raises ValueError unless the function gives one finite number, at the lowest and the highest bits."""
    rows = [space.uniform(space.widths[0]), space.uniform(space.widths[-1])]
    try:
        found = jax.eval_shape(cost, jax.ShapeDtypeStruct((space.size,), jnp.int32))
        values = [float(cost(jnp.asarray(row))) for row in rows] if np.shape(found) == () else []
    except (TypeError, ValueError, IndexError, AttributeError, jax.errors.JAXTypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"costs[{name!r}] must be a JAX function of bits ({space.size},): {reason}. "
            "One that is not can be HostCost(function), or external(function)"
        ) from error
    if np.shape(found) != ():
        raise ValueError(f"costs[{name!r}] must give one number, got shape {np.shape(found)}: reduce it")
    for row, value in zip(rows, values, strict=True):
        if not np.isfinite(value):
            remedy = _of_chip(cost, row) if isinstance(cost, ChipCost) else "check the table behind it"
            raise ValueError(f"costs[{name!r}] must be finite, got {value} at {row[0]} bits: {remedy}")


def _of_chip(cost: ChipCost, row: Int[np.ndarray, " n"]) -> str:
    """What to do about a configuration that a chip cannot compute or hold."""
    widths = cost.chip_widths
    if set(row.tolist()) <= set(widths):
        return (
            f"chip {cost.chip.name!r} lists no such pair of bit-widths, or its level "
            f"{cost.chip.levels[0].name!r} is too small for the network: give a space of other "
            "bit-widths, or another chip"
        )
    return f"chip {cost.chip.name!r} does not compute that: give a space of the chip's widths, {widths}"


def worst_error(task: Task) -> float:
    """Of a network that fails wholly: 1 for shares of images; for kl ln(classes), a flat guess."""
    if isinstance(task.score, ErrorOfBits | ErrorOfOutputs):
        return task.score.worst
    classes = jax.eval_shape(QuantizedNetwork.logits, task.network, task.inputs).shape[1]
    return float(np.log(classes)) if task.score.name == "kl" else 1.0


def _check_score(score: Score, network: QuantizedNetwork, inputs: Inputs) -> None:
    classes = jax.eval_shape(network.logits, take(inputs, slice(1))).shape[1]
    if isinstance(score, TopKError) and score.k >= classes:
        raise ValueError(
            f"top_k must be below the number of classes, {classes}, got {score.k}: nothing could miss"
        )


def _checked(network: QuantizedNetwork, inputs: Inputs, labels: Any) -> tuple[Inputs, Array]:
    """Inputs and target as device arrays; without labels the target is the full-precision logits."""
    check_quantized(network)
    inputs = fitting(inputs, network.traced.sample)
    logits = jax.eval_shape(network.logits, take(inputs, slice(1)))
    if len(logits.shape) != 2:
        raise ValueError(f"the network gives {logits.shape} for one sample: a task needs logits (N, classes)")
    if labels is None:
        bits = jnp.full((1, len(network.workload.points)), FULL_BITS, jnp.int32)
        return inputs, compiled_logits(network, bits, inputs)[0]  # the candidates' own compiled path
    labels, total = np.asarray(labels), count(inputs)
    if labels.shape != (total,):
        raise ValueError(f"labels has shape {labels.shape} for {total} inputs: give one class index each")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be in 0-{logits.shape[1] - 1}, got {labels.min()} to {labels.max()}: "
            "are they of this network's classes?"
        )
    return inputs, jnp.asarray(labels, jnp.int32)
