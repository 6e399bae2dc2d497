"""Errors of one's own in the place of a network's top-k error or divergence, and costs that are not JAX.

A few-shot learner's error in episodes, a detector's in boxes: whatever is a function of what a network makes
of its inputs, or of the bit-widths alone. Nothing is imported for it; the user passes a function. What cannot
be traced runs on the host, between compiled programs: in parallel, and free to fail, as an `external`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egrljax import External
from hwmodel import check_fields

OnItem = Callable[[int, float], Any]  # told of each configuration as soon as it is measured


@dataclass(frozen=True)
class ErrorOfOutputs:
    """(outputs (N, ...), target) -> a number, minimised; a `Score`. Compared by its function's identity."""

    name: str
    function: Callable[[Any, Any], Any]
    worst: float = 1.0
    host: bool = False  # called between compiled programs, with NumPy arrays

    def __post_init__(self):
        check_fields(self)
        _check_worst(self.name, self.worst)

    def __call__(self, logits: Any, target: Any) -> Float[Array, ""]:
        """Under jit.

        Raises:
            ValueError: the function runs on the host.
        """
        if self.host:
            raise ValueError(_on_host(self.name))
        return _number(self.name, self.function(logits, target))

    def errors(self, outputs: np.ndarray, target: Any) -> Float[np.ndarray, " K"]:
        """On the host, of the outputs (K, N, ...) of K configurations; +inf where they are NaN."""
        found = np.full(len(outputs), np.inf, np.float32)
        good = [i for i, row in enumerate(outputs) if not np.isnan(row).any()]
        if good:
            found[good] = _measured(self.function, outputs[good], jax.tree.map(np.asarray, target))
        return found

    def check(self, outputs: Any, target: Any) -> None:
        """Raises ValueError unless the function takes outputs of this shape and gives one number."""
        if not self.host:
            _check(
                self.name,
                "(outputs, target)",
                lambda x, y: _number(self.name, self.function(x, y)),
                outputs,
                target,
            )


@dataclass(frozen=True)
class ErrorOfBits:
    """bits (n,) -> a number, minimised. Compared by its function's identity."""

    name: str
    function: Callable[[Any], Any]
    worst: float = 1.0
    host: bool = False  # called between compiled programs, with a NumPy array

    def __post_init__(self):
        check_fields(self)
        _check_worst(self.name, self.worst)

    def __call__(self, logits: Any, target: Any) -> Any:
        """A task does not run its network for this error."""
        raise ValueError(f"{self.name} is an error of bits: there are no outputs to compare")

    def traced(self, bits: Int[Array, " n"]) -> Float[Array, ""]:
        """Under jit.

        Raises:
            ValueError: the function runs on the host.
        """
        if self.host:
            raise ValueError(_on_host(self.name))
        return _number(self.name, self.function(bits))

    def errors(self, bits: Int[np.ndarray, "K n"], on_item: OnItem | None = None) -> Float[np.ndarray, " K"]:
        """On the host, of K configurations; +inf where they are NaN."""
        return _measured(self.function, bits, on_item=on_item)

    def check(self, points: int) -> None:
        """Raises ValueError unless the function takes bits (n,) and gives one number."""
        if not self.host:
            _check(self.name, f"bits ({points},)", self.traced, jax.ShapeDtypeStruct((points,), jnp.int32))


@dataclass(frozen=True)
class HostCost:
    """bits (n,) -> a number, minimised: a cost beside the error that is not JAX. Compared by its function.

    Only an `Evaluator`, and so `search`, measures it: after what is compiled, and only where that did not
    fail. It is never known beforehand, so a limit on it spares no evaluation. A task makes one of an
    `external` among its costs by itself.
    """

    function: Callable[[Any], Any]
    # With every quantizer at its highest bit-width: what counts as 1 in rankings and hypervolumes. None: it
    # is measured for that whenever a search starts or goes on, and must give the same each time.
    at_highest: float | None = None
    name: str = "cost"  # these two are the task's to set
    highest: tuple[int, ...] = ()

    def __post_init__(self):
        check_fields(self)
        if self.at_highest is not None and not np.isfinite(self.at_highest):
            raise ValueError(f"at_highest of {self.name} must be finite, got {self.at_highest}")

    def __call__(self, bits: Any) -> float:
        """Of one configuration, at once; `at_highest` is taken as measured.

        Raises:
            ValueError: under jit, or the measurement failed.
        """
        if isinstance(bits, jax.core.Tracer):
            raise ValueError(_on_host(self.name))
        row = np.asarray(bits, np.int32)
        if self.at_highest is not None and tuple(row.tolist()) == self.highest:
            return self.at_highest
        found = float(self.errors(row[None])[0])
        if not np.isfinite(found):
            raise ValueError(
                f"{self.name} could not be measured at bits {row.tolist()}: see the log. If these are the "
                "highest, HostCost(function, at_highest=...) says what it is there"
            )
        return found

    def errors(self, bits: Int[np.ndarray, "K n"], on_item: OnItem | None = None) -> Float[np.ndarray, " K"]:
        """Of K configurations; +inf where they are NaN."""
        return _measured(self.function, bits, on_item=on_item)


def _on_host(name: str) -> str:
    return f"{name} runs on the host: evaluate with Evaluator(task), or search"


def _measured(
    function: Callable[..., Any], rows: Any, *others: Any, on_item: OnItem | None = None
) -> Float[np.ndarray, " K"]:
    """An external function measures all rows in one call of its pool, any other one after the other."""
    if isinstance(function, External):
        found = function(rows, *others, on_item=on_item)
    else:
        found = np.zeros(len(rows))
        for i, row in enumerate(rows):
            found[i] = float(function(row, *others))
            if on_item is not None:
                on_item(i, float(found[i]))
    with np.errstate(over="ignore"):  # beyond float32 is +inf
        return np.where(np.isnan(found), np.inf, found).astype(np.float32)


def _number(name: str, found: Any) -> Float[Array, ""]:
    if np.shape(found) != ():
        raise ValueError(f"{name} must give one number, got shape {np.shape(found)}: reduce it")
    return jnp.asarray(found, jnp.float32)


def _check_worst(name: str, worst: float) -> None:
    if not 0 < worst < float("inf"):
        raise ValueError(f"worst of {name} must be above 0 and finite, got {worst}")


def _check(name: str, of: str, function: Callable[..., Any], *args: Any) -> None:
    try:
        jax.eval_shape(function, *args)
    except (TypeError, IndexError, AttributeError, jax.errors.JAXTypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} must be a JAX function of {of}: {reason}. Give host=True for one that is not"
        ) from error
