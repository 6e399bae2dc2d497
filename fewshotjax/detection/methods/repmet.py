"""RepMet's own method (Karlinsky et al. 2019): representatives of new classes, perhaps tuned on their
support, and those that training learned of the classes it saw.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ...repmet_model import classify, embed, representatives
from ...representatives import Representatives
from ..detector import Net, box_codes
from ..regions import Regions, regions_of
from ..support import SupportBoxes, SupportConfig, representatives_of, support_features
from ..tuning import DetectionTuning, Tuned, tune
from .method import DetectionMethod, Scores


class RepMetModel(NamedTuple):
    """What an episode learns."""

    own: dict[str, Any]  # parameters that it has of its own, in place of the detector's
    found: Representatives  # of the episode's W classes, and of more that compete
    missing: Bool[Array, " W"]  # classes without usable support


def judged(params: Any, net: Net, found: Representatives, features: Float[Array, "R F"]) -> Scores:
    """Scores of regions under given representatives, by the detector's embedding and posterior."""
    head, repmet = net.config.head, params["repmet"]
    e = embed(repmet, head, features)
    result, _ = classify(head, found, e, repmet.get("log_sigma"))
    return result.classes, result.background


def repmet(
    net: Net, support: SupportConfig | None = None, *, tuning: DetectionTuning | None = None
) -> DetectionMethod:
    """Embeddings of the support are the modes of new classes, or k-means centres of too many.

    Args:
        net: of the detector.
        support: which regions are examples, how many modes, what competes. None: our defaults.
        tuning: also train on the support; None: not.
    """
    return _repmet(net, support or SupportConfig(), tuning)


# One method, and so one compilation, however the defaults are written.
@cache
def _repmet(net: Net, config: SupportConfig, tuning: DetectionTuning | None) -> DetectionMethod:
    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> RepMetModel:
        k_means, k_order = jax.random.split(key)
        found = representatives_of(k_means, params, net, shown, ways, config)
        labels = support_features(shown, ways, config).labels
        missing = ~jnp.any(labels[None] == jnp.arange(ways)[:, None], axis=1)
        if tuning is None:
            return RepMetModel({}, found, missing)
        tuned: Tuned = tune(k_order, params, net, shown, found, ways, tuning)
        return RepMetModel(tuned.params, tuned.found, missing)

    def predict(params: Any, model: RepMetModel, features: Array, objectness: Array) -> Scores:
        return judged({**params, **model.own}, net, model.found, features)

    def codes(params: Any, model: RepMetModel, features: Array) -> Float[Array, "R 4"]:
        return box_codes({**params, **model.own}, net, features)

    def regions(params: Any, model: RepMetModel, images: Array) -> Regions:
        return regions_of({**params, **model.own}, net, images)

    looks_again = tuning is not None and tuning.what != "head"
    own_boxes = tuning is not None and tuning.what == "head" and tuning.box
    return DetectionMethod(
        fit,
        predict,
        codes if own_boxes else None,
        regions if looks_again else None,
        missing=lambda model: model.missing,
        images=tuning is not None and (looks_again or tuning.augmentation is not None),
        sequential=tuning is not None and tuning.what == "all",
    )


def trained(net: Net, *, keep_base: bool = False) -> DetectionMethod:
    """The representatives that training learned, of classes that the detector was trained on; support is not
    looked at. Merged classes have the modes of all their parts.

    Args:
        keep_base: its other classes compete, too; else only the episode's are looked for.
    """
    return _trained(net, keep_base)


@cache
def _trained(net: Net, keep_base: bool) -> DetectionMethod:
    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Representatives:
        every = representatives(params["repmet"], net.config.head)
        members = shown.classes.reshape(ways, -1)  # (W, P)
        modes, mask = every.modes[members], every.mask[members]
        own = Representatives(modes.reshape(ways, -1, modes.shape[-1]), mask.reshape(ways, -1))
        if not keep_base:
            return own
        twice = jnp.any(jnp.arange(len(every.modes))[:, None] == members.reshape(1, -1), axis=1)
        rest = every._replace(mask=every.mask & ~twice[:, None])
        more = own.mask.shape[1] - rest.mask.shape[1]
        rest = Representatives(
            jnp.pad(rest.modes, ((0, 0), (0, more), (0, 0))), jnp.pad(rest.mask, ((0, 0), (0, more)))
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), own, rest)

    def predict(params: Any, model: Representatives, features: Array, objectness: Array) -> Scores:
        return judged(params, net, model, features)

    return DetectionMethod(fit, predict, trained=True)
