"""Where tensors lie, as a pure function of bit-widths: compilers' rules, a trained policy, a short search.

Each is called with what the chip makes of the bit-widths and gives a placement that fits, under jit. `maps`
is how many placements' latencies are worked out for it, the unit in which searches are compared; a rule or a
policy looks at none beforehand, so its one map is the answer's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

import egrljax as egrl
import hwmodel as hw
from egrljax import baselines
from hwmodel import check_fields

Placement = Int[Array, "N 2"]


@runtime_checkable
class Placing(Protocol):
    """Hashable; equal ones share compiled programs."""

    @property
    def maps(self) -> int:
        """Placements whose latency is worked out for one configuration."""

    def __call__(
        self, workload: hw.Workload, chip: hw.Chip, bits: hw.Bits, problem: hw.Problem, schedule: str
    ) -> Placement:
        """The placement (N, 2) of a workload with tensors of `bits`, whose tables are `problem`.

        Args:
            schedule: of `hwmodel.latency`, by which placements are compared.
        """


def first_fit(problem: hw.Problem) -> Placement:
    """`hwmodel.first_fit` under jit."""
    n, _, levels = problem.shape
    return hw.rectify(problem, jnp.full((n, 2), levels - 1, jnp.int32)).placement


def density(problem: hw.Problem) -> Placement:
    """`hwmodel.density` under jit, in float32: tensors whose densities differ by rounding may swap turns."""
    return hw.assign(problem, hw.saved_density(problem))


def banked_greedy(problem: hw.Problem) -> Placement:
    """`hwmodel.banked_greedy` under jit; tensors without bytes lie on level 0.

    `assign` goes by margins, so each tensor's margin falls with its turn, and levels by their speed.
    """
    n, _, levels = problem.shape
    seconds = jnp.sum(hw.tensor_seconds(problem), axis=(0, 1))
    order = jnp.argsort(seconds, stable=True)
    wish = jnp.zeros((levels,)).at[order].set(jnp.arange(levels, dtype=jnp.float32)[::-1])
    turn = jnp.arange(2 * n, 0, -1, dtype=jnp.float32).reshape(n, 2, 1)
    return hw.assign(problem, turn * (wish - wish[0])[None, None])


RULES: dict[str, Callable[[hw.Problem], Placement]] = {
    "first_fit": first_fit,
    "density": density,
    "banked_greedy": banked_greedy,
}


@dataclass(frozen=True)
class Rule:
    """One of hwmodel's rules, or "best", the fastest of the three by the cost's schedule."""

    name: str = "best"

    def __post_init__(self):
        check_fields(self)
        if self.name not in (*RULES, "best"):
            raise ValueError(f"placement must be one of {(*RULES, 'best')}, got {self.name!r}")

    @property
    def maps(self) -> int:
        return len(RULES) if self.name == "best" else 1

    def __call__(
        self, workload: hw.Workload, chip: hw.Chip, bits: hw.Bits, problem: hw.Problem, schedule: str
    ) -> Placement:
        if self.name != "best":
            return RULES[self.name](problem)
        return fastest(problem, ruled(problem), schedule)


@dataclass(frozen=True)
class Fixed:
    """One wish for all bit-widths; what does not fit slides to slower levels, as a compiler has it."""

    levels: tuple[tuple[int, int], ...]  # of weights and output, one pair per operation
    maps: int = field(default=1, init=False)

    @classmethod
    def of(cls, placement: Any) -> "Fixed":
        """From an array (N, 2) of levels."""
        rows = np.asarray(placement)
        if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "iu":
            raise ValueError(f"placement must be whole numbers (N, 2), got {rows.dtype} of {rows.shape}")
        return cls(tuple((int(weight), int(output)) for weight, output in rows))

    def __call__(
        self, workload: hw.Workload, chip: hw.Chip, bits: hw.Bits, problem: hw.Problem, schedule: str
    ) -> Placement:
        wish, (n, _, levels) = np.array(self.levels, np.int32), problem.shape
        if wish.shape != (n, 2) or not 0 <= wish.min() <= wish.max() < levels:
            raise ValueError(
                f"placement is of {len(wish)} operations on levels up to {wish.max()}; workload "
                f"{workload.name!r} has {n}, chip {chip.name!r} {levels} levels"
            )
        return hw.rectify(problem, jnp.asarray(wish)).placement


@dataclass(frozen=True)
class Learned:
    """A trained policy of egrljax: one forward pass on the graph at these bit-widths.

    Compared by identity: keep the policy, and its programs are kept.
    """

    policy: egrl.TrainedPolicy
    maps: int = field(default=1, init=False)

    def __call__(
        self, workload: hw.Workload, chip: hw.Chip, bits: hw.Bits, problem: hw.Problem, schedule: str
    ) -> Placement:
        columns = {len(hw.feature_names(kind, chip)): kind for kind in ("paper19", "onehot", "plus")}
        kind = columns.get(self.policy.features, "plus")  # `propose` refuses what is none of them
        env = egrl.environment_at(workload, chip, features=kind)(bits)  # type: ignore[arg-type]
        return self.policy.propose(env)


@dataclass(frozen=True)
class Evolved:
    """A small evolution of scores (`egrljax.baselines.ea_margins`), and the best rule if that is faster.

    The evolution itself goes by the sequential schedule; what it finds is compared with the rules by the
    cost's.
    """

    budget: int = 60  # placements whose latency is worked out, besides the rules'
    seed: int = 0  # the same for all configurations, so that the cost stays a function of the bits
    config: baselines.EAMarginsConfig | None = None  # None: `small_evolution`

    def __post_init__(self):
        check_fields(self)
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1, got {self.budget}")

    @property
    def maps(self) -> int:
        return self.budget + len(RULES)

    def __call__(
        self, workload: hw.Workload, chip: hw.Chip, bits: hw.Bits, problem: hw.Problem, schedule: str
    ) -> Placement:
        key, config = jax.random.key(self.seed), self.config or small_evolution(self.budget)
        return fastest(problem, evolved(key, workload, chip, bits, problem, self.budget, config), schedule)


@dataclass(frozen=True)
class Descended:
    """A few steps of Adam through hwmodel's soft model from the best rule, rounded now and then; the fastest.

    For capacities it has a plain penalty, where `hwmodel.optimize_placement` has an augmented Lagrangian. The
    soft model goes by the sequential schedule; what is rounded is compared with the rules by the cost's.
    """

    steps: int = 40
    roundings: int = 4
    learning_rate: float = 0.2
    time_temperature: tuple[float, float] = (1.0, 0.03)  # first and last, see hwmodel.Temperature
    start: float = 2.0  # logit of the rule's level
    penalty: float = 1.0  # of the mean overflow, where all tensors in level 0 take 1

    def __post_init__(self):
        check_fields(self)
        for name in ("steps", "roundings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps % self.roundings:
            raise ValueError(f"roundings {self.roundings} must divide steps {self.steps}")
        for name in ("learning_rate", "start"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")
        if not min(self.time_temperature) > 0:
            raise ValueError(f"time_temperature must be two numbers above 0, got {self.time_temperature}")

    @property
    def maps(self) -> int:
        return self.roundings + len(RULES)

    def __call__(
        self, workload: hw.Workload, chip: hw.Chip, bits: hw.Bits, problem: hw.Problem, schedule: str
    ) -> Placement:
        n, _, levels = problem.shape
        rules = ruled(problem)
        logits = self.start * jax.nn.one_hot(fastest(problem, rules, schedule), levels)
        store_s = hw.latency(problem, jnp.zeros((n, 2), jnp.int32))
        first, last = self.time_temperature
        optimizer = optax.adam(self.learning_rate, b2=0.9)

        def loss(logits: Array, step: Array) -> Array:
            time = first * (last / first) ** (step / max(self.steps - 1, 1))
            soft = hw.soft_latency(problem, logits, hw.Temperature(time, 1.0))
            return soft.latency_s / store_s + self.penalty * soft.overflow / n

        def descend(state: Any, step: Array) -> tuple[Any, None]:
            logits, moments = state
            gradient = jax.grad(loss)(logits, step)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(logits, updates), moments), None

        def part(state: Any, steps: Array) -> tuple[Any, Array]:
            state, _ = jax.lax.scan(descend, state, steps)
            return state, jnp.argmax(state[0], axis=-1).astype(jnp.int32)

        steps = jnp.arange(self.steps, dtype=jnp.float32).reshape(self.roundings, -1)
        _, rounded = jax.lax.scan(part, (logits, optimizer.init(logits)), steps)
        placements = jnp.concatenate([rules, hw.rectify(problem, rounded).placement])
        return fastest(problem, placements, schedule)


def ruled(problem: hw.Problem) -> Int[Array, "R N 2"]:
    """The placements of all rules, in their order."""
    return jnp.stack([rule(problem) for rule in RULES.values()])


def evolved(
    key: Array,
    workload: hw.Workload,
    chip: hw.Chip,
    bits: hw.Bits,
    problem: hw.Problem,
    budget: int,
    config: baselines.EAMarginsConfig,
) -> Int[Array, "M N 2"]:
    """The rules' placements and an evolution's answer, all of which fit: the caller chooses."""
    env = egrl.environment_at(workload, chip)(bits)
    found = baselines.ea_margins(key, env, budget, config)
    return jnp.concatenate([ruled(problem), found.answer[None]])


def small_evolution(budget: int) -> baselines.EAMarginsConfig:
    """Settings for few evaluations: the first generation takes at most a third of them, so that it breeds."""
    population = max(1, min(20, budget // 3))
    return baselines.EAMarginsConfig(population=population, children=max(1, population // 2))


def fastest(problem: hw.Problem, placements: Int[Array, "M N 2"], schedule: str = "sequential") -> Placement:
    """Of placements that fit, the one with the lowest latency; of equal ones the first."""
    return placements[jnp.argmin(hw.latency(problem, placements, schedule))]


def placing(given: Any) -> Placing:
    """A name of `Rule`, a placement (N, 2), a trained policy, or any Placing.

    Raises:
        ValueError: none of these.
    """
    if isinstance(given, str):
        return Rule(given)
    if isinstance(given, egrl.TrainedPolicy):
        return Learned(given)
    if isinstance(given, np.ndarray | jax.Array):
        return Fixed.of(given)
    if not isinstance(given, Placing):
        raise ValueError(
            f"placement must be a rule's name, levels (N, 2), a TrainedPolicy or a Placing, got {given!r}"
        )
    return given
