"""Maps drawn at random, one as good as the next: what any search has to beat."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..acting import act
from ..environment import Environment
from ..reward import RewardConfig
from ..starts import Start, start_logits
from .course import RECTIFIED, Course, Trials, course_of, generations, trial

_BATCH = 100  # maps drawn at once, for memory's sake


def random_search(
    key: jax.Array,
    env: Environment,
    budget: int,
    start: Start = "uniform",
    *,
    reward: RewardConfig = RECTIFIED,
) -> Course:
    """Every decision drawn from the softmax of the start's logits; the compiler rectifies the rest.

    Args:
        budget: evaluations, static.
        start: "uniform", or a prior of `starts.start_logits`.

    Raises:
        ValueError: a budget below 1, an unknown start.
    """
    batch = min(_BATCH, max(budget, 1))
    rounds = generations(budget, 0, batch)
    logits = jnp.broadcast_to(start_logits(env, start)[None], (batch, *env.allowed.shape))

    def draw(_: None, key: Array) -> tuple[None, Trials]:
        k_act, k_measure = jax.random.split(key)
        return None, trial(k_measure, env, act(k_act, env, logits, "levels"), reward)

    _, trials = jax.lax.scan(draw, None, jax.random.split(key, rounds))
    return course_of(env, [trials], budget)
