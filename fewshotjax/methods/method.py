"""A few-shot method: two pure functions, one that learns from a few examples and one that predicts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

Labels = Int[Array | np.ndarray, " S"]


class Method(NamedTuple):
    """What an episode runs. Any pair of such functions is a method; nothing needs to be registered.

    Labels are 0 to ways - 1; an example with the label `ways` is padding and must be left out. Where all
    classes have equally many examples they arrive as a NumPy array, known while tracing.
    """

    # key, support (S, D), labels (S,), ways -> model, a pytree
    fit: Callable[[PRNGKeyArray, Float[Array, "S D"], Labels, int], Any]
    # model, queries (Q, D) -> log-probabilities (Q, ways)
    predict: Callable[[Any, Float[Array, "Q D"]], Float[Array, "Q ways"]]
    # One episode after the other instead of many at once: for convolutions with weights of each episode's
    # own, which XLA:CPU runs some 20 times slower when they are vmapped.
    sequential: bool = False


def through(function: Callable[[Any], Float[Array, "B D"]], method: Method) -> Method:
    """A method on what a function makes of its examples: features of images, raw pixels as vectors."""

    def fit(key: PRNGKeyArray, support: Any, labels: Labels, ways: int) -> Any:
        return method.fit(key, function(support), labels, ways)

    def predict(model: Any, queries: Any) -> Float[Array, "Q ways"]:
        return method.predict(model, function(queries))

    return method._replace(fit=fit, predict=predict)
