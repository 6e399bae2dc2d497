"""What a configuration of bit-widths costs: an error of the network's logits. All are minimised.

Size and bit-operations depend on the bits alone and live in hwmodel.costs.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from hwmodel import check_fields


@runtime_checkable
class Score(Protocol):
    """An error of logits (N, classes) against a target with leading axis N; hashed by value."""

    @property
    def name(self) -> str: ...

    def __call__(self, logits: Any, target: Any) -> Any: ...


def top_k_misses(logits: Float[Array, "N classes"], labels: Int[Array, " N"], k: int) -> Bool[Array, " N"]:
    """Whether the label is not among the k largest logits; of equal logits the lower class comes first."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1])[None]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ~(jnp.sum(ahead, axis=1) < k) | jnp.isnan(logits).any(axis=1)


@dataclass(frozen=True)
class TopKError:
    """1 - top-k accuracy, in [0, 1]; the target is class indices (N,)."""

    k: int

    def __post_init__(self):
        check_fields(self)
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    @property
    def name(self) -> str:
        return f"top{self.k}_error"

    def __call__(self, logits: Float[Array, "N classes"], target: Int[Array, " N"]) -> Float[Array, ""]:
        return jnp.mean(top_k_misses(logits, target, self.k), dtype=jnp.float32)


@dataclass(frozen=True)
class Disagreement:
    """Share of images whose most likely class is not the reference's; the target is its logits."""

    name: ClassVar[str] = "disagreement"

    def __call__(
        self, logits: Float[Array, "N classes"], target: Float[Array, "N classes"]
    ) -> Float[Array, ""]:
        return jnp.mean(top_k_misses(logits, jnp.argmax(target, axis=1), 1), dtype=jnp.float32)


@dataclass(frozen=True)
class KLDivergence:
    """Mean KL(p_reference ‖ p) in nats; the target is the reference's logits."""

    name: ClassVar[str] = "kl"

    def __call__(
        self, logits: Float[Array, "N classes"], target: Float[Array, "N classes"]
    ) -> Float[Array, ""]:
        log_p, log_reference = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(target, axis=1)
        return jnp.mean(optax.losses.kl_divergence_with_log_targets(log_p, log_reference))
