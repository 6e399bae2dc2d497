"""Fine-tuning in the episode: gradient descent with momentum on the support photographs, as one scan.

The authors' released code does it for 5 epochs at a rate of 5e-4, with the linear loss off. Here the loss is
the detector's on regions (posterior, embedding, box), with the representatives of the episode as a start.
Tuned is the head alone, on features that are known already, or, on images, what regions go through or the
whole network. The authors' code can also hold backbone, FPN and proposal network still: "regions". With an
augmentation every epoch sees the photographs turned, shifted, zoomed and mirrored anew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..distances import l2_normalize
from ..fields import check_fields
from ..repmet_model import classify, embed, margin_loss, posterior_loss
from ..representatives import Representatives
from .assign import hardest
from .augmentation import Augmentation, augmented
from .detector import Net, box_codes, feature_maps
from .region_losses import Targets
from .regions import region_features
from .rpn_losses import smooth_l1
from .support import SupportBoxes
from .targets import joined_features, support_targets


@dataclass(frozen=True)
class DetectionTuning:
    """How an episode is tuned.

    Raises:
        ValueError: a field out of range; it is named.
    """

    # "head": representatives, embedding and, with `box`, the box head; "regions": these, the box head, trunk
    # and deformable offsets; "all": pyramid and FPN, too. The region proposal network stays: support boxes
    # tell little of where objects are.
    what: Literal["head", "regions", "all"] = "head"
    epochs: int = 5  # authors
    learning_rate: float = 5e-4  # authors
    momentum: float = 0.9  # authors
    # Support boxes of a step, each with all regions of its photograph, so that a photograph comes once for
    # each of its boxes. Authors: one photograph.
    per_step: int = 1
    embedding: bool = True  # of "head": False: the representatives alone
    box: bool = False  # of "head": the box head, too
    offsets_rate: float = 0.01  # of the deformable offsets, in learning rates; authors
    # Of the photographs, anew in each epoch, with their boxes; what is looked for in these views are regions
    # of their own. `AUTHORS_AUGMENTATION` is the authors' option; None: none, their default.
    augmentation: Augmentation | None = None

    def __post_init__(self):
        check_fields(self)
        if self.what not in ("head", "regions", "all"):
            raise ValueError(f"what must be head, regions or all, got {self.what!r}")
        for name in ("epochs", "per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                "learning_rate must be above 0 and momentum in [0, 1), "
                f"got {self.learning_rate} and {self.momentum}"
            )
        if self.augmentation is not None and not isinstance(self.augmentation, Augmentation):
            raise ValueError(
                f"augmentation must be an Augmentation, such as AUTHORS_AUGMENTATION, or None, got "
                f"{self.augmentation!r}"
            )
        if not 0 <= self.offsets_rate < float("inf"):
            raise ValueError(f"offsets_rate must not be negative, got {self.offsets_rate}")


class Tuned(NamedTuple):
    """What the episode has of its own; the rest is the detector's."""

    # "repmet", and those of "pyramid", "fpn", "trunk", "box", "offsets" that were tuned
    params: dict[str, Any]
    found: Representatives


def tune(
    key: PRNGKeyArray,
    params: Any,
    net: Net,
    shown: SupportBoxes,
    found: Representatives,
    ways: int,
    tuning: DetectionTuning,
) -> Tuned:
    """Parameters and representatives after the descent.

    Args:
        key: of the order of the boxes in each epoch.
        params, net: of the detector.
        found: of the episode, where it starts.

    Raises:
        ValueError: "regions", "all" or an augmentation without images.
    """
    config, head = net.config, net.config.head
    epochs = 1  # whose boxes are rows of their own
    if tuning.augmentation is not None:
        k_views, key = jax.random.split(key)
        epochs = tuning.epochs
        shown = augmented(k_views, params, net, shown, ways, tuning.augmentation, epochs)
    targets = support_targets(shown, ways, config, len(found.modes))
    looks, repmet = tuning.what != "head", params["repmet"]
    start: dict[str, Any] = {"modes": found.modes}
    if head.embedding is not None and (looks or tuning.embedding):
        start["head"] = repmet["head"]
    if looks:
        if shown.images is None:
            raise ValueError(
                f"tuning is of {tuning.what!r}, but there are no images: give them, or tune the 'head'"
            )
        start |= {name: params[name] for name in ("trunk", "offsets", "box") if name in params}
    elif tuning.box:
        start["box"] = params["box"]
    if tuning.what == "all":
        start["fpn"] = params["fpn"]
        if not net.frozen:
            start["pyramid"] = params["pyramid"]["params"]  # statistics of batch norms stay
    features_of = _features_of(params, net, shown, targets, tuning.what)

    def place(moved: dict[str, Any]) -> Tuned:
        own: dict[str, Any] = {
            name: moved[name] for name in ("fpn", "trunk", "offsets", "box") if name in moved
        }
        own["repmet"] = {**repmet, **({"head": moved["head"]} if "head" in moved else {})}
        if "pyramid" in moved:
            own["pyramid"] = {**params["pyramid"], "params": moved["pyramid"]}
        modes = l2_normalize(moved["modes"]) if head.normalize_representatives else moved["modes"]
        return Tuned(own, found._replace(modes=modes))

    def loss(moved: dict[str, Any], rows: Int[Array, " n"]) -> Array:
        model, some = place(moved), jax.tree.map(lambda leaf: leaf[rows], targets)
        own = {**params, **model.params}
        return _loss(own, net, model.found, features_of(own, rows), some)

    return place(_descend(key, tuning, loss, start, jnp.any(targets.mask, axis=1), epochs))


def _features_of(
    params: Any, net: Net, shown: SupportBoxes, targets: Targets, what: str
) -> Callable[[Any, Int[Array, " n"]], Float[Array, "n N F"]]:
    """(parameters as they are now, rows) -> features of these rows' regions; what stays is computed once."""
    if what == "head":
        features = joined_features(shown)
        return lambda own, rows: features[rows]
    if what == "all":
        return lambda own, rows: region_features(
            own, net, feature_maps(own, net, shown.images[rows]), targets.boxes[rows]
        )
    maps = feature_maps(params, net, shown.images)
    return lambda own, rows: region_features(
        own, net, tuple(level[rows] for level in maps), targets.boxes[rows]
    )


def _loss(
    params: Any, net: Net, found: Representatives, features: Float[Array, "n N F"], targets: Targets
) -> Float[Array, ""]:
    """As `detector_loss` counts it, without what is the proposal network's and the linear classifier's."""
    config, head = net.config, net.config.head
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), targets)
    x = features.reshape(-1, features.shape[-1])
    result, squared = classify(
        head, found, embed(params["repmet"], head, x), params["repmet"].get("log_sigma")
    )
    wrong = jnp.where(flat.mask, posterior_loss(head, result, flat.labels), 0.0)
    away = jnp.where(flat.foreground[:, None], box_codes(params, net, x) - flat.codes, 0.0)
    box = jnp.sum(smooth_l1(away, config.box_sharpness), axis=1)
    kept = targets.mask
    if config.hardest is not None and config.hardest < kept.shape[1]:
        most, rank = config.hardest, (wrong + box).reshape(kept.shape)
        kept = jax.vmap(lambda rank, mask: hardest(rank, mask, most).member(mask.shape[0]))(rank, kept)
    weight = kept.reshape(-1).astype(x.dtype)
    front = weight * flat.foreground.astype(x.dtype)
    total = jnp.maximum(jnp.sum(weight), 1.0)
    value = config.class_weight * jnp.sum(wrong * weight) / total
    value += config.box_weight * jnp.sum(box * weight) / total
    if head.embedding_weight:
        margin = jnp.where(flat.foreground, margin_loss(head, squared, found, flat.labels), 0.0)
        divisor = jnp.maximum(jnp.sum(front), 1.0) if config.per_foreground else total
        value += config.class_weight * head.embedding_weight * jnp.sum(margin * front) / divisor
    return value


def _descend(
    key: PRNGKeyArray,
    tuning: DetectionTuning,
    loss: Callable[[Any, Array], Array],
    start: Any,
    there: Bool[Array, " B"],
    views: int = 1,
) -> Any:
    """Epochs over boxes 0 to B - 1 in an order of their own each; those that are not there have no step.

    Args:
        views: the boxes of so many epochs stand one behind the other; 1: all epochs have the same.
    """
    total = len(there) // views
    size = min(tuning.per_step, total)
    steps = math.ceil(total / size)

    def ordered(epoch: Array) -> Int[Array, "steps size"]:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), total) + epoch % views * total
        # The last step is filled up with the first boxes.
        return jnp.concatenate([order, order[: steps * size - total]]).reshape(steps, size)

    rows = jax.vmap(ordered)(jnp.arange(tuning.epochs)).reshape(-1, size)
    rule = optax.sgd(tuning.learning_rate, tuning.momentum)

    def step(carry: Any, rows: Int[Array, " size"]) -> tuple[Any, None]:
        moved, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, new = rule.update(jax.grad(loss)(moved, rows), state)
            if "offsets" in updates:
                slower = jax.tree.map(lambda one: tuning.offsets_rate * one, updates["offsets"])
                updates = {**updates, "offsets": slower}
        stepped = optax.apply_updates(moved, updates), new
        some = jnp.any(there[rows])
        return jax.tree.map(lambda a, b: jnp.where(some, a, b), stepped, carry), None

    (moved, _), _ = jax.lax.scan(step, (start, rule.init(start)), rows)
    return moved
