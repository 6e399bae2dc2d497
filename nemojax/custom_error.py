"""Errors of one's own in the place of a network's top-k error or divergence, as plain functions.

A few-shot learner's error in episodes, a detector's in boxes: whatever is a function of what a network makes
of its inputs, or of the bit-widths alone. Nothing is imported for it; the user passes a function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class ErrorOfOutputs:
    """(outputs (N, ...), target) -> a number, minimised; a `Score`. Compared by its function's identity."""

    name: str
    function: Callable[[Any, Any], Any]
    worst: float = 1.0
    host: bool = False  # called between compiled programs, with NumPy arrays

    def __post_init__(self):
        _check_worst(self.name, self.worst)

    def __call__(self, logits: Any, target: Any) -> Float[Array, ""]:
        """Under jit.

        Raises:
            ValueError: the function runs on the host.
        """
        if self.host:
            raise ValueError(f"{self.name} runs on the host: evaluate with Evaluator(task), or search")
        return _number(self.name, self.function(logits, target))

    def errors(self, outputs: np.ndarray, target: Any) -> Float[np.ndarray, " K"]:
        """On the host, of the outputs (K, N, ...) of K configurations; +inf where they are NaN."""
        target = jax.tree.map(np.asarray, target)
        found = [np.inf if np.isnan(row).any() else float(self.function(row, target)) for row in outputs]
        return np.array(found, np.float32)

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
            raise ValueError(f"{self.name} runs on the host: evaluate with Evaluator(task), or search")
        return _number(self.name, self.function(bits))

    def errors(self, bits: Int[np.ndarray, "K n"]) -> Float[np.ndarray, " K"]:
        """On the host, of K configurations."""
        return np.array([float(self.function(row)) for row in bits], np.float32)

    def check(self, points: int) -> None:
        """Raises ValueError unless the function takes bits (n,) and gives one number."""
        if not self.host:
            _check(self.name, f"bits ({points},)", self.traced, jax.ShapeDtypeStruct((points,), jnp.int32))


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
