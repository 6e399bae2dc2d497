"""A trained policy: from a workload on a chip to a placement in one forward pass, and its file."""

import json
import os
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import hwmodel as hw
from hwmodel import check_fields

from .acting import Acting, act, act_greedily
from .checkpoint import load_state, save_state
from .config import EGRLConfig
from .egrl import EGRL, egrl
from .environment import Environment
from .policies import PolicyConfig
from .starts import Start
from .state import EGRLState

_KIND = "policy of egrljax"
MOST_FEATURES = 4096  # of a node; hwmodel has a few dozen


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """A policy's parameters, and all that is needed to act with them.

    Raises:
        ValueError: another number of parameters than the policy's shape has, or numbers that are not finite.
    """

    vector: Float[np.ndarray, " P"]  # float32
    policy: PolicyConfig
    features: int  # of a node
    start: Start = "density"
    acting: Acting = "margins"
    trained_on: tuple[str, ...] = field(default=())  # "resnet50 on nnp_i_tight"

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.features <= MOST_FEATURES:
            raise ValueError(f"features must be 1 to {MOST_FEATURES}, got {self.features}")
        size = self.algorithm.genome.size
        if self.vector.shape != (size,):
            raise ValueError(f"vector must be {size} numbers for this policy, got shape {self.vector.shape}")
        if self.vector.dtype.kind != "f":
            raise ValueError(f"vector must be floats, got {self.vector.dtype}")
        if not np.isfinite(self.vector).all():
            raise ValueError("vector must be finite, got NaN or infinite numbers")

    @property
    def algorithm(self) -> EGRL:
        """An EGRL whose networks have this policy's shape."""
        return _algorithm(self.policy, self.start, self.acting, self.features)

    def logits(self, env: Environment) -> Float[Array, "N 2 L"]:
        """Of every decision.

        Raises:
            ValueError: a chip of another number of levels, or other node features.
        """
        self.check(env)
        return _logits(self.algorithm, env, jnp.asarray(self.vector))

    def propose(self, env: Environment) -> Int[Array, "N 2"]:
        """The map without chance, as the compiler leaves it: one forward pass, nothing measured.

        Raises:
            ValueError: as `logits`.
        """
        self.check(env)
        return _greedy(self.algorithm, env, jnp.asarray(self.vector))

    def draw(self, key: jax.Array, env: Environment, count: int) -> Int[Array, "M N 2"]:
        """Maps drawn from the policy's distribution, as the compiler leaves them: to explore about `propose`.

        A single draw is usually worse than `propose`: the policy was trained to act without chance.

        Raises:
            ValueError: as `logits`; a count below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self.check(env)
        return _drawn(self.algorithm, env, jnp.asarray(self.vector), key, count)

    def check(self, env: Environment) -> None:
        """Refuses an environment that the policy does not fit.

        Raises:
            ValueError: as `logits`.
        """
        levels, features = env.allowed.shape[-1], jnp.asarray(env.graph.nodes).shape[-1]
        if levels != self.policy.choices:
            raise ValueError(
                f"the policy places tensors on {self.policy.choices} levels, and the chip has {levels}: "
                "train one on chips like it"
            )
        if features != self.features:
            raise ValueError(
                f"the policy reads {self.features} features a node, and the environment has {features}: "
                'build it with the features that the policy was trained with ("plus", if none were chosen)'
            )


@lru_cache(maxsize=16)
def _algorithm(policy: PolicyConfig, start: Start, acting: Acting, features: int) -> EGRL:
    return egrl(EGRLConfig(policy=policy, start=start, acting=acting), features)


@partial(jax.jit, static_argnames="algo")
def _logits(algo: EGRL, env: Environment, vector: Array) -> Array:
    return algo.learner.logits(env, vector[None])[0]


@partial(jax.jit, static_argnames="algo")
def _greedy(algo: EGRL, env: Environment, vector: Array) -> Array:
    maps = act_greedily(env, algo.learner.logits(env, vector[None]), algo.config.acting)
    return hw.rectify(env.problem, maps[0]).placement


@partial(jax.jit, static_argnames=("algo", "count"))
def _drawn(algo: EGRL, env: Environment, vector: Array, key: Array, count: int) -> Array:
    logits = jnp.repeat(algo.learner.logits(env, vector[None]), count, axis=0)
    return hw.rectify(env.problem, act(key, env, logits, algo.config.acting)).placement


def best_policy(algo: EGRL, state: EGRLState, trained_on: tuple[str, ...] = ()) -> TrainedPolicy:
    """The policy of a run that ranks first by its last map, which was drawn, to place other workloads with.

    Raises:
        ValueError: a run without policies, or one that has measured none of them.
    """
    if not algo.config.policies:
        raise ValueError("the run has no policies: its configuration says policies=0")
    ranks = np.asarray(state.ranks[: algo.config.policies])
    if not np.isfinite(ranks).any():
        raise ValueError("the run has measured no policy yet: run a generation first")
    best = int(np.argmin(ranks))
    config = algo.config
    return TrainedPolicy(
        np.asarray(state.population.policies[best]),
        config.policy,
        algo.features,
        config.start,
        config.acting,
        trained_on,
    )


def save_policy(path: str | os.PathLike[str], policy: TrainedPolicy) -> None:
    """Write a policy, whole or not at all; nothing in the file is executed on loading."""
    save_state(path, {"vector": policy.vector}, _settings(policy))


def load_policy(path: str | os.PathLike[str]) -> TrainedPolicy:
    """Read a file of `save_policy`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, or of settings that this version does not know.
    """
    with Path(path).open("rb") as file:
        first = file.readline(2**16)
    wrong = f"{path} is no trained policy; give a file that save_policy or `egrljax train` wrote"
    try:
        settings = json.loads(first)["settings"]
        known = settings["kind"] == _KIND
        shape = PolicyConfig(**settings["policy"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(wrong) from error
    if not known:
        raise ValueError(wrong)
    saved = load_state(path, {"vector": np.zeros(0, np.float32)}, settings)
    try:
        return TrainedPolicy(
            np.asarray(saved["vector"]),
            shape,
            int(settings["features"]),
            settings["start"],
            settings["acting"],
            tuple(settings["trained_on"]),
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(wrong) from error


def _settings(policy: TrainedPolicy) -> dict[str, object]:
    return {
        "kind": _KIND,
        "policy": asdict(policy.policy),
        "features": policy.features,
        "start": policy.start,
        "acting": policy.acting,
        "trained_on": list(policy.trained_on),
    }
