"""Budgets: upper limits of objectives, refused before any evaluation if no configuration can keep them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hwmodel import Workload

from .sensitivity import Sensitivity
from .space import BitSpace
from .task import CostOfBits, costs_by_name

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ROUNDING = 1e-6  # relative, of costs in float32: a limit holds to that
_SHOWN = 3  # contributors named in a message


@runtime_checkable
class Limited(Protocol):
    """What a task needs for limits; `network` and `costs_of_bits` may be missing if only objectives count."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the M objectives."""


def limits(
    task: Limited, wanted: Mapping[str, float | int | str], *, growing: Sequence[str] = ()
) -> Float[np.ndarray, " M"]:
    """Upper limits of a task's objectives, (M,) float32, +inf where none is wanted; 1e-6 of each is slack.

    A limit on a cost of bits alone is checked at the lowest bit-width of every quantizer. That bounds the
    cost from below, whatever ties and pairs do, since the built-in costs grow with every bit-width. Under
    pairs, which can keep it higher, an integer program decides about model_ratio and bitops_max.

    Args:
        task: a Task.
        wanted: objective -> largest value, say {"model_ratio": 0.1, "bitops_max": 0.1}; or "size": bytes, a
            number or a text with one of the units B, kB, MB, GB (powers of 1000), KiB, MiB, GiB (of 1024).
            The size counts weights at their bits (tied ones once) and biases at 32, as model_ratio does.
        growing: names of further objectives in `task.costs_of_bits` that never fall when a bit-width rises.

    Raises:
        ValueError: an unknown objective or unit, a limit that is no positive number, or one below what the
            lowest bit-widths reach: the message says what that is and which quantizers keep it up.
    """
    ratios = {name: value for name, value in wanted.items() if name != "size"}
    unknown = next((name for name in [*ratios, *growing] if name not in task.objectives), None)
    if unknown is not None:
        raise ValueError(f'there is no objective {unknown!r}; there are {list(task.objectives)}, and "size"')
    upper = {name: _positive(value, f"limit of {name!r}") for name, value in ratios.items()}
    told = {name: f"limit {name} <= {value:g}" for name, value in upper.items()}
    if "size" in wanted:
        if "model_ratio" in upper:
            raise ValueError("limits holds model_ratio and size, which are the same cost: drop one")
        if "model_ratio" not in task.objectives:
            raise ValueError(f"a limit of size needs the objective model_ratio, got {list(task.objectives)}")
        size = bytes_of(wanted["size"])
        upper["model_ratio"] = size / full_precision_bytes(_workload(task))
        told["model_ratio"] = f"limit size <= {size:,.0f} bytes (model_ratio {upper['model_ratio']:.4g})"
    costs = dict(getattr(task, "costs_of_bits", ()))
    for name, value in upper.items():
        if name in costs and (name in growing or _is_built_in(task, name, costs[name])):
            _check_reachable(task.space, costs[name], value, told[name])  # type: ignore[attr-defined]
    if getattr(getattr(task, "space", None), "pairs", ()) and hasattr(task, "network"):
        _check_pairs(task, upper)
    return np.array([upper.get(name, np.inf) * (1 + _ROUNDING) for name in task.objectives], np.float32)


def violation(
    costs: Float[Array | np.ndarray, "N M"],
    upper: Float[Array | np.ndarray, " M"],
    scale: Float[Array | np.ndarray, " M"],
) -> Float[Array, " N"]:
    """Σ_m max(0, f_m - limit_m) / scale_m per row; 0 within all limits, +inf for a failed evaluation.

    Args:
        upper: `limits`; +inf limits nothing.
        scale: what counts as 1 in each objective, positive; say the limits, or the spread of the costs.
    """
    costs, upper, scale = jnp.asarray(costs), jnp.asarray(upper), jnp.asarray(scale)
    excess = jnp.where(costs <= upper[None], 0.0, costs - upper[None])  # inf - inf is not taken
    return jnp.sum(jnp.where(jnp.isnan(costs), jnp.inf, excess) / scale[None], axis=1)


def bytes_of(size: float | int | str) -> float:
    """1_200_000, "1.2 MB", "1200kB" or "1.5 MiB" as a number of bytes."""
    if not isinstance(size, str):
        return _positive(size, "limit of size")
    parts = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([A-Za-z]+)\s*", size)
    if parts is None or parts[2] not in _BYTES:
        raise ValueError(f"limit of size must be a number and one of {', '.join(_BYTES)}, got {size!r}")
    try:
        number = float(parts[1])
    except ValueError:
        raise ValueError(f"limit of size must start with a number, got {size!r}") from None
    return _positive(number, f"limit of size, {size!r},") * _BYTES[parts[2]]


def full_precision_bytes(workload: Workload) -> int:
    """All stored parameters at 32 bits: weights (tied ones once) and biases, in bytes."""
    weights = sum(op.w_elems for i, op in enumerate(workload.operations) if op.w_id == i)
    return 4 * (weights + sum(op.bias_elems for op in workload.operations))


def _positive(value: Any, what: str) -> float:
    if isinstance(value, bool | str) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{what} must be a number, got {value!r}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{what} must be above 0, got {value}")
    return float(value)


def _workload(task: Any) -> Workload:
    network = getattr(task, "network", None)
    if network is None:
        raise ValueError("a limit of size needs the task of a network: give model_ratio instead")
    return network.workload


def _is_built_in(task: Any, name: str, cost: CostOfBits) -> bool:
    return hasattr(task, "network") and costs_by_name(task.network).get(name) == cost


def _check_reachable(space: BitSpace, cost: CostOfBits, limit: float, told: str) -> None:
    lowest = np.array(space.low, np.int32)
    reached = float(cost(jnp.asarray(lowest)))
    if reached <= limit * (1 + _ROUNDING):
        return
    raise ValueError(
        f"{told} cannot be kept: with every quantizer at its lowest bit-width it is {reached:.4g} at least. "
        f"{_kept_up(space, cost, lowest)}; raise the limit, or allow them fewer bits"
    )


def _check_pairs(task: Any, upper: Mapping[str, float]) -> None:
    """Raises ValueError if no legal configuration keeps the limits of size and bit-operations together."""
    from .baselines.knapsack import Knapsack  # needs SciPy's solver, which takes a while to import

    known = costs_by_name(task.network)
    own = {n: x for n, x in upper.items() if n in ("model_ratio", "bitops_max")}
    own = {n: x for n, x in own.items() if _is_built_in(task, n, known[n])}
    if not own:
        return
    space = task.space
    flat = np.array([[0.0 if b in bits else np.nan for b in space.widths] for bits in space.allowed])
    nothing = Sensitivity(space.names, space.widths, flat, "none")
    if Knapsack.of(space, task.network.workload, nothing).solve(**own) is None:
        told = " and ".join(f"{name} <= {value:.4g}" for name, value in own.items())
        raise ValueError(
            f"limits {told} cannot be kept by any configuration of the pairs {list(space.pairs)}: raise a "
            "limit, or allow pairs of fewer bits"
        )


def _kept_up(space: BitSpace, cost: CostOfBits, lowest: np.ndarray) -> str:
    """The quantizers whose pins, sets, ties or pairs raise a cost most, each one by itself."""
    base = np.full_like(lowest, lowest.min())
    alone = np.where(np.eye(space.size, dtype=bool), lowest[None], base[None]).astype(np.int32)
    least = float(cost(jnp.asarray(base)))
    added = np.array(jax.lax.map(cost, jnp.asarray(alone))) - least
    worst = [i for i in np.argsort(-added, kind="stable")[:_SHOWN] if added[i] > 0]
    if not worst:
        return f"Nothing but the lowest bit-width, {base[0]}, and 32-bit biases keep it there"
    shown = ", ".join(f"{space.names[i]!r} (lowest {lowest[i]} bits, +{added[i]:.4g})" for i in worst)
    return f"Pins, sets, ties or pairs that keep it up: {shown}"
