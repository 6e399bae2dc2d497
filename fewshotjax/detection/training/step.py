"""Some steps of a training as one compiled loop: a pure function of the state, the key and what was drawn."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from ...training.step import averaged
from ..detector import Net
from ..losses import Losses, Truth, detector_loss
from .config import DetectorTrainConfig


@struct.dataclass
class DetectorTrainState:
    """Everything that changes."""

    params: Any  # those that are trained, see `split`
    kept: Any  # exponential mean of them: what the training is for
    optimizer: Any
    step: Array  # () int32
    losses: Losses  # sums over the steps of the epoch so far


class Images(NamedTuple):
    """What was drawn, as arguments of the compiled program: N images, those of `draw_steps` steps."""

    images: UInt8[Array, "N H W C"]
    truth: Truth


def split(net: Net, params: Any) -> tuple[Any, Any]:
    """A detector's parameters as those that are trained and the pyramid's fixed variables.

    A frozen pyramid is fixed as a whole: no gradient, moment or mean is kept of it.
    """
    rest = {name: tree for name, tree in params.items() if name != "pyramid"}
    pyramid = params["pyramid"]
    if net.frozen:
        return rest, pyramid
    fixed = {name: tree for name, tree in pyramid.items() if name != "params"}
    return {**rest, "pyramid": pyramid["params"]}, fixed


def joined(net: Net, trained: Any, fixed: Any) -> Any:
    """The inverse of `split`."""
    if net.frozen:
        return {**trained, "pyramid": fixed}
    return {**trained, "pyramid": {**fixed, "params": trained["pyramid"]}}


def begin(net: Net, params: Any, config: DetectorTrainConfig, steps: int) -> DetectorTrainState:
    """The state before the first of `steps` steps in all."""
    # Types of their own: weak ones would be compiled anew after a step.
    trained = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), split(net, params)[0])
    moments = optimizer(config, steps).init(trained)
    return DetectorTrainState(trained, trained, moments, jnp.asarray(0, jnp.int32), nothing())


def nothing() -> Losses:
    """Sums of no steps."""
    return Losses(*(jnp.zeros((), jnp.float32) for _ in Losses._fields))


def learning_rate(config: DetectorTrainConfig, steps: int) -> optax.Schedule:
    """Of each of `steps` steps in all: a linear rise, then a cosine to zero or drops."""
    warmup = round(config.warmup_epochs * steps / config.epochs)
    highest = config.learning_rate
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else highest, highest, warmup, steps)
    at = {round(share * steps): config.drop for share in config.drops}
    drops = optax.piecewise_constant_schedule(highest, at)
    rise = optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return lambda count: rise(count) * drops(count)


def optimizer(config: DetectorTrainConfig, steps: int) -> optax.GradientTransformation:
    """Of the parameters that are trained: clipped, decayed, at rates of their own.

    Departs from the authors, who clip no gradient.
    """
    rules = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
    decay = optax.add_decayed_weights(config.weight_decay, _matrices)
    if config.optimizer == "adamw":
        rules += [optax.scale_by_adam(), decay]
    else:
        rules += [decay, optax.trace(config.momentum)]
    rules.append(optax.scale_by_learning_rate(learning_rate(config, steps)))
    for part, rate in (("offsets", config.offsets_rate), ("pyramid", config.pyramid_rate)):
        if rate != 1:
            rules.append(optax.masked(optax.scale(rate), _Only(part)))
    return optax.chain(*rules)


def mirrored(
    key: PRNGKeyArray, images: UInt8[Array, "B H W C"], truth: Truth
) -> tuple[UInt8[Array, "B H W C"], Truth]:
    """Half of the images, each with its boxes, left to right."""
    flip = jax.random.bernoulli(key, 0.5, (len(images),))
    width = float(images.shape[2])
    x1, y1, x2, y2 = jnp.moveaxis(truth.boxes, -1, 0)
    turned = jnp.stack([width - x2, y1, width - x1, y2], axis=-1)
    there = truth.shown if truth.ignored is None else truth.shown | truth.ignored
    moved = jnp.where((flip[:, None] & there)[..., None], turned, truth.boxes)
    pictures = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    return pictures, truth._replace(boxes=moved)


def in_precision(net: Net, params: Any, dtype: Any) -> Any:
    """Pyramid, FPN, RPN and trunk in another type; embedding, representatives, boxes stay as they are.

    So do a pyramid's other variables, such as the statistics of batch norms, and a frozen pyramid, a function
    that may know no other type.
    """

    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    found = {**params, **{name: jax.tree.map(cast, params[name]) for name in ("fpn", "rpn", "trunk")}}
    if not net.frozen:
        pyramid = params["pyramid"]
        found["pyramid"] = {**pyramid, "params": jax.tree.map(cast, pyramid["params"])}
    return found


def _run(
    key: PRNGKeyArray,
    state: DetectorTrainState,
    fixed: Any,
    drawn: Images,
    count: Int[Array, ""],
    net: Net,
    config: DetectorTrainConfig,
    steps: int,
) -> DetectorTrainState:
    """The next `count` steps, all of one draw and one epoch.

    Args:
        fixed: the pyramid's variables that are not trained.
        steps: of the whole training.

    What a step does follows from its number: it does not matter how a training is cut into calls.
    """
    rule = optimizer(config, steps)
    per_epoch = steps // config.epochs

    def step(_: Array, state: DetectorTrainState) -> DetectorTrainState:
        k_mirror, k_loss = jax.random.split(jax.random.fold_in(key, state.step))
        place = state.step % config.draw_steps * config.batch
        images, truth = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, place, config.batch), tuple(drawn)
        )
        if config.mirror:
            images, truth = mirrored(k_mirror, images, truth)

        def loss(trained: Any) -> tuple[Array, Losses]:
            params = joined(net, trained, fixed)
            if config.dtype == jnp.float32:
                return detector_loss(k_loss, params, net, images, truth)
            with jax.numpy_dtype_promotion("standard"):  # batch norms mix their float32 statistics in
                return detector_loss(k_loss, in_precision(net, params, config.dtype), net, images, truth)

        (_, told), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules multiply counts by rates
            updates, moments = rule.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        kept = averaged(state.kept, params, state.step, config.ema)
        before = jax.tree.map(lambda total: jnp.where(state.step % per_epoch == 0, 0.0, total), state.losses)
        losses = jax.tree.map(jnp.add, before, told)
        return DetectorTrainState(params, kept, moments, state.step + 1, losses)

    return jax.lax.fori_loop(0, count, step, state)  # the number is traced: one compilation for all


run = jax.jit(_run, static_argnums=(5, 6, 7))


def _matrices(params: Any) -> Any:
    """What is decayed: by name, as the offsets' biases are a matrix of all levels."""

    def one(path: tuple[Any, ...], leaf: Array) -> bool:
        return leaf.ndim > 1 and getattr(path[-1], "key", None) != "bias"

    return jax.tree_util.tree_map_with_path(one, params)


class _Only:
    """A mask of one part of the parameters."""

    def __init__(self, part: str):
        self._part = part

    def __call__(self, tree: Any) -> Any:
        return {name: jax.tree.map(lambda _, hit=name == self._part: hit, sub) for name, sub in tree.items()}
