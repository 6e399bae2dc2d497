"""A method of few-shot detection: two pure functions, one that learns from a few boxes, one that scores
regions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..regions import Regions
from ..support import SupportBoxes

# Log-probabilities (R, C) of the classes, and (R,) of none of them; None where a method knows no background.
Scores = tuple[Float[Array, "R C"], Float[Array, " R"] | None]


class DetectionMethod(NamedTuple):
    """What an episode runs. Any such functions are a method; nothing needs to be registered.

    The scores' first W classes are the episode's, in its order; more of them only compete with these.
    """

    # key, params of the detector, what is shown of W classes, W -> model, a pytree
    fit: Callable[[PRNGKeyArray, Any, SupportBoxes, int], Any]
    # params, model, features (R, F), probability of being an object (R,) -> scores
    predict: Callable[[Any, Any, Float[Array, "R F"], Float[Array, " R"]], Scores]
    # params, model, features (R, F) -> (R, 4), for boxes of the model's own; None: the detector's
    codes: Callable[[Any, Any, Float[Array, "R F"]], Float[Array, "R 4"]] | None = None
    # params, model, images (B, H, W, C) -> regions, by a network of the model's own; None: the detector's
    regions: Callable[[Any, Any, Array], Regions] | None = None
    missing: Callable[[Any], Bool[Array, " W"]] | None = None  # model -> classes that it has no support of
    images: bool = False  # `fit` looks at the support's photographs
    trained: bool = False  # knows only classes that the detector was trained on
    # One episode after the other instead of many at once: for convolutions with weights of each episode's
    # own, which XLA:CPU runs some 20 times slower when they are vmapped.
    sequential: bool = False
