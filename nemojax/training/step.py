"""Some steps of an epoch as one compiled loop: a pure function of the state, the key and the data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt8

from ..data.augment import crop_flip
from ..lowered import lowered
from ..preprocess import Preprocess
from .config import TrainConfig

Apply = Callable[..., Any]  # of a linen module: (variables, images, train=, mutable=)


@struct.dataclass
class TrainState:
    """Everything that changes."""

    params: Any
    statistics: Any  # the running ones of batch norms
    kept: Any  # exponential mean of params and statistics: what the training is for
    optimizer: Any
    step: Array  # () int32
    loss: Array  # () float32, sum over the steps of the epoch so far


def begin(variables: Any, config: TrainConfig, steps: int) -> TrainState:
    """The state before the first step, of a module's variables {"params", "batch_stats"}."""
    # Types of their own: weak ones, which some initializers leave, turn strong in a step: two compilations.
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), variables)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        params,
        statistics,
        {"params": params, "batch_stats": statistics},
        optimizer(config, steps).init(params),
        jnp.asarray(0, jnp.int32),
        jnp.asarray(0.0, jnp.float32),
    )


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Nesterov's momentum, decay of the kernels alone; `steps` in all, of which `config` says the shape."""
    warmup = round(config.warmup_epochs * steps / config.epochs)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate, config.learning_rate, warmup, steps
    )

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, kernels),
        optax.sgd(rate, config.momentum, nesterov=True),
    )


def normalized(images: UInt8[Array, "B H W 3"], preprocess: Preprocess) -> Float[Array, "B H W 3"]:
    """(x - mean) / scale, as `Preprocess.normalize` has it."""
    mean, scale = (
        jnp.broadcast_to(jnp.asarray(v, jnp.float32), 3)[None, None, None]
        for v in (preprocess.mean, preprocess.scale)
    )
    return (images.astype(jnp.float32) - mean) / scale


def cut_out(keys: Key[Array, " B"], images: Float[Array, "B H W C"], side: int) -> Float[Array, "B H W C"]:
    """Zeros in a square of `side` pixels around a random pixel of each image (DeVries & Taylor 2017)."""
    height, width = images.shape[1:3]

    def hidden(key: Key[Array, ""]) -> Bool[Array, "H W"]:
        centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
        rows, columns = (
            (jnp.arange(n) >= c - side // 2) & (jnp.arange(n) < c - side // 2 + side)
            for n, c in ((height, centre[0]), (width, centre[1]))
        )
        return rows[:, None] & columns[None]

    return jnp.where(jax.vmap(hidden)(keys)[..., None], 0.0, images)


def augmented(
    key: PRNGKeyArray,
    images: UInt8[Array, "B H W 3"],
    preprocess: Preprocess,
    config: TrainConfig,
    pixels: int | None,
) -> Float[Array, "B h w 3"]:
    """What the network is trained on: cropped and mirrored, normalised, cut out, scaled to `pixels`."""
    k_crop, k_cut = (jax.random.split(k, len(images)) for k in jax.random.split(key))
    if config.padding:
        images = crop_flip(k_crop, images, config.padding)
    x = normalized(images, preprocess)
    if config.cutout:
        x = cut_out(k_cut, x, config.cutout)
    if pixels is not None and x.shape[1:3] != (pixels, pixels):
        x = jax.image.resize(x, (len(x), pixels, pixels, 3), "bilinear")
    return x


def _run(
    key: PRNGKeyArray,
    state: TrainState,
    images: UInt8[Array, "N H W 3"],
    labels: Int[Array, " N"],
    steps: Int[Array, ""],
    apply: Apply,
    preprocess: Preprocess,
    config: TrainConfig,
    pixels: int | None = None,
) -> TrainState:
    """The next `steps` steps, all of the epoch that the state stands in.

    An epoch has every image once, but for an incomplete last batch. Its order follows from the key and its
    number, a batch's crops from the number of the step: it does not matter how an epoch is cut into calls.
    """
    per_epoch = len(images) // config.batch
    rule = optimizer(config, per_epoch * config.epochs)
    k_epoch = jax.random.fold_in(key, state.step // per_epoch)
    k_order, k_augment = jax.random.split(k_epoch)
    order = jax.random.permutation(k_order, len(images))

    def forward(variables: Any, pictures: Array) -> Any:
        return apply(variables, pictures, train=True, mutable=["batch_stats"])

    train = lowered(forward)  # fast convolutions and gradients on a CPU; the same numbers to rounding

    def step(_: Array, state: TrainState) -> TrainState:
        done = state.step % per_epoch
        rows = jax.lax.dynamic_slice(order, (done * config.batch,), (config.batch,))
        k_step = jax.random.fold_in(k_augment, state.step)
        pictures, wanted = augmented(k_step, images[rows], preprocess, config, pixels), labels[rows]

        def loss(params: Any) -> tuple[Array, Any]:
            logits, updates = train({"params": params, "batch_stats": state.statistics}, pictures)
            targets = optax.smooth_labels(jax.nn.one_hot(wanted, logits.shape[1]), config.label_smoothing)
            return optax.softmax_cross_entropy(logits, targets).mean(), updates.get("batch_stats", {})

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules multiply counts by rates
            updates, moments = rule.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # The mean starts as the weights themselves, and its horizon grows with the steps.
        before = state.step.astype(jnp.float32)
        share = jnp.minimum(config.ema, before / (before + 10.0))
        now = {"params": params, "batch_stats": statistics}
        kept = jax.tree.map(lambda old, new: share * old + (1 - share) * new, state.kept, now)
        total = jnp.where(done == 0, 0.0, state.loss) + value
        return TrainState(params, statistics, kept, moments, state.step + 1, total)

    return jax.lax.fori_loop(0, steps, step, state)  # the number is traced: one compilation for all


run = jax.jit(_run, static_argnums=(5, 6, 7, 8))
