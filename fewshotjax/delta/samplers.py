"""What an episode's samples are made of: a Delta-encoder's codes, and the controls. All are pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .controls import Noise, Offsets, draw_noise, draw_offsets
from .encoder import BLOCK, DeltaEncoder, code_bank
from .model import seed_part
from .scaling import Scaling
from .synthesis import CODES, draw_codes, synthesize_rows, warn_of_replacement


@struct.dataclass
class DeltaSampler:
    """x̂ = D(s, z); tickets are codes. Drawing with replacement is said while tracing: once a program."""

    delta: DeltaEncoder
    codes: str = struct.field(pytree_node=False, default="pairs")

    def scale(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return self.delta.scaling(x)

    def parts(self, seeds: Float[Array, "S D"]) -> Float[Array, "S hidden"]:
        return seed_part(self.delta.params, seeds)

    def draw(self, key: PRNGKeyArray, seeds: int, each: int) -> Float[Array, "seeds each code"]:
        if self.codes == "pairs":
            warn_of_replacement(each, len(self.delta.bank))
        return draw_codes(key, self.delta.bank, seeds, each, self.codes)

    def make(
        self, key: PRNGKeyArray, parts: Float[Array, "#B hidden"], tickets: Float[Array, "B code"]
    ) -> Float[Array, "B D"]:
        return synthesize_rows(self.delta.params, self.delta.config, parts, tickets)

    def row_bytes(self) -> int:
        return 4 * self.delta.config.hidden


@struct.dataclass
class OffsetSampler:
    """x̂ = s + (x - y); tickets are rows of the bank of differences."""

    offsets: Offsets

    def scale(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return self.offsets.scaling(x)

    def parts(self, seeds: Float[Array, "S D"]) -> Float[Array, "S D"]:
        return seeds

    def draw(self, key: PRNGKeyArray, seeds: int, each: int) -> Int[Array, "seeds each"]:
        warn_of_replacement(each, len(self.offsets.bank))
        return draw_offsets(key, self.offsets, seeds, each)

    def make(
        self, key: PRNGKeyArray, parts: Float[Array, "#B D"], tickets: Int[Array, " B"]
    ) -> Float[Array, "B D"]:
        return parts + self.offsets.bank[tickets]

    def row_bytes(self) -> int:
        return 4 * self.offsets.bank.shape[1]


@struct.dataclass
class NoiseSampler:
    """x̂ = s + ε; tickets are numbers that are folded into the key, so that no noise need be kept."""

    noise: Noise

    def scale(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return self.noise.scaling(x)

    def parts(self, seeds: Float[Array, "S D"]) -> Float[Array, "S D"]:
        return seeds

    def draw(self, key: PRNGKeyArray, seeds: int, each: int) -> Int[Array, "seeds each"]:
        return jnp.arange(seeds * each).reshape(seeds, each)

    def make(
        self, key: PRNGKeyArray, parts: Float[Array, "#B D"], tickets: Int[Array, " B"]
    ) -> Float[Array, "B D"]:
        return parts + draw_noise(key, self.noise, tickets)

    def row_bytes(self) -> int:
        return 8 * len(self.noise.root)


@struct.dataclass
class SeedsAlone:
    """Makes nothing: for `EpisodeFit(samples=0)`."""

    scaling: Scaling | None = None

    def scale(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return x if self.scaling is None else self.scaling(x)


def delta_sampler(delta: DeltaEncoder, codes: str = "pairs") -> DeltaSampler:
    """Checked.

    Raises:
        ValueError: no such codes.
    """
    if codes not in CODES:
        raise ValueError(f"codes must be one of {', '.join(CODES)}, got {codes!r}")
    return DeltaSampler(delta, codes)


def random_class_deltas(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    features: Float[np.ndarray | Array, "N D"],
    *,
    chunk: int = BLOCK,
) -> DeltaEncoder:
    """The same networks with a bank of codes that lead from any example to any other, whatever the classes.

    A control: codes of pairs that no training ever saw together should help less.

    Args:
        features: unscaled, such as those it was trained on.
        chunk: pairs at once; bounds the memory.
    """
    count = len(features)
    x = delta.scaling(jnp.asarray(features, jnp.float32))
    partner = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
    bank = code_bank(delta.params, delta.config, x, partner, chunk=chunk)
    return delta.replace(bank=bank, bank_labels=None)  # type: ignore[attr-defined]
