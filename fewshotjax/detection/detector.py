"""A few-shot detector as pure functions: pyramid, FPN, RPN, regions and the dense layers on them.

    images ─ pyramid ─ FPN ─▶ maps ─┬─ RPN ─ propose ─▶ boxes (R, 4)
                                    └─ pool(boxes) ─ trunk ─▶ features (R, F) ─┬─ box_codes
                                                                               └─ fewshotjax.repmet

Everything of an image has a fixed shape, and `Net` says all that a compiled program depends on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from ..backbones import Preprocess
from ..repmet_model import init_repmet
from .anchors import anchors
from .boxes import clip, decode, usable
from .config import DetectorConfig
from .deformable import init_pooling_offsets, pooling_offsets, two_pass_pool
from .layers import Layer, conv3x3, dense, draw_layers, group_norm, groups, layer_norm, upsampled
from .nms import nms
from .pooling import align
from .pyramids import Pyramid
from .roi import roi_levels
from .sampling import Lowering

_NO_STDS = (1.0, 1.0, 1.0, 1.0)  # of anchors' codes


@dataclass(frozen=True)
class Net:
    """What a detector's programs depend on: hashable, compared by value, static under jit."""

    config: DetectorConfig
    apply: Callable[..., Any]  # of the pyramid
    preprocess: Preprocess
    strides: tuple[int, ...]
    widths: tuple[int, ...]
    frozen: bool  # the pyramid's parameters have no gradient


@dataclass(frozen=True, eq=False)
class Detector:
    """A detector and the classes that its representatives stand for.

    Images are uint8 (H, W, 3) of any size; boxes are half-open pixels (x1, y1, x2, y2).
    """

    net: Net
    params: Any  # {"pyramid": variables, "fpn", "rpn", "trunk", "box", "repmet", and "offsets" if deformable}
    classes: tuple[str, ...]  # in the order of the representatives
    name: str  # of the pyramid
    options: Mapping[str, Any] = field(default_factory=dict)  # of the pyramid


class RPN(NamedTuple):
    """Of B images and A anchors, in the order of `anchors`; float32."""

    logits: Float[Array, "B A"]  # of being an object
    codes: Float[Array, "B A 4"]  # of the object's box, relative to the anchor


class Proposals(NamedTuple):
    """R places for regions that may show an object, by descending score; unused ones are 0."""

    boxes: Float[Array, "B R 4"]
    scores: Float[Array, "B R"]  # probability
    mask: Bool[Array, "B R"]


def init_detector(
    key: PRNGKeyArray, pyramid: Pyramid, config: DetectorConfig, classes: Sequence[str]
) -> Detector:
    """A detector with the pyramid's weights; all else is drawn from the key.

    The deviation of the last layers, 0.01 and that of box codes 0.001, is of Girshick 2015; the others are
    He et al. 2015. The offsets of deformable pooling start at 0.

    Raises:
        ValueError: strides of the anchors that are not the pyramid's, no classes, or a name twice.
    """
    names = tuple(classes)
    net = checked_net(pyramid, config, names)
    params = {**draw_params(key, config, pyramid.widths, len(names)), "pyramid": pyramid.variables}
    return Detector(net, params, names, pyramid.name, dict(pyramid.options))


@partial(jax.jit, static_argnums=(1, 2, 3))
def draw_params(
    key: PRNGKeyArray, config: DetectorConfig, widths: tuple[int, ...], classes: int
) -> dict[str, Any]:
    """All parameters but the pyramid's."""
    k_layers, k_head = jax.random.split(key)
    params = draw_layers(k_layers, _layers(widths, config))
    if config.norm is not None:
        _add_norms(params, len(widths), config)
    params["repmet"] = init_repmet(k_head, config.head, config.hidden[-1], classes)
    if config.roi == "deformable":
        params["offsets"] = init_pooling_offsets(config.channels, config.roi_size, len(widths))
    # Types of their own: weak ones, which some initializers leave, would be compiled anew after a step.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), params)


def checked_net(pyramid: Pyramid, config: DetectorConfig, classes: tuple[str, ...]) -> Net:
    """The static part of a detector; raises as `init_detector` does."""
    wanted = pyramid.strides if config.p6 is None else (*pyramid.strides, 2 * pyramid.strides[-1])
    if config.anchors.strides != wanted:
        last = "" if config.p6 is None else f" and that of p6={config.p6!r}"
        raise ValueError(
            f"anchors.strides must be those of {pyramid.name}{last}, {wanted}, got {config.anchors.strides}"
        )
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be one or more different names, got {_listed(classes)}")
    return Net(config, pyramid.apply, pyramid.preprocess, pyramid.strides, pyramid.widths, pyramid.frozen)


def feature_maps(
    params: Any, net: Net, images: UInt8[Array, "B H W C"]
) -> tuple[Float[Array, "B _ _ channels"], ...]:
    """The maps that all else looks at, at the anchors' strides, the finest first (Lin et al. 2017).

    P_l = conv3x3(conv1x1(C_l) + each cell of the coarser sum as 2 x 2), with a group norm behind it if the
    config has `norm`. Batch norms keep their statistics.
    With `config.p6` one more behind these, which proposals alone look at.
    The maps have the type of the FPN's parameters, and the pyramid runs in that of its own.
    """
    variables = params["pyramid"]
    stopped = {name: jax.lax.stop_gradient(one) for name, one in variables.items()}
    variables = stopped if net.frozen else {**stopped, "params": variables["params"]}
    images = net.preprocess.normalize(images)
    found = net.apply(variables, images.astype(_dtype(variables["params"], images.dtype)))
    if net.frozen:
        found = jax.lax.stop_gradient(found)
    fpn, maps, above = params["fpn"], [], None
    for level in reversed(range(len(net.strides))):
        x = dense(fpn[f"lateral_{level}"], found[level].astype(_dtype(fpn, jnp.float32)))
        above = x if above is None else x + upsampled(above, *x.shape[1:3])
        x = conv3x3(fpn[f"output_{level}"], above)
        if net.config.norm is not None:
            x = group_norm(fpn[f"norm_{level}"], x, groups(x.shape[3]))
        maps.append(x)
    maps.reverse()
    if net.config.p6 == "subsample":
        maps.append(maps[-1][:, ::2, ::2])
    elif net.config.p6 == "conv":
        maps.append(conv3x3(fpn["p6"], found[-1].astype(_dtype(fpn, jnp.float32)), stride=2))
    return tuple(maps)


def rpn(params: Any, net: Net, maps: Sequence[Float[Array, "B _ _ channels"]]) -> RPN:
    """The region proposal network (Ren et al. 2015), which the levels share.

    A 3x3 convolution with ReLU, then logits and codes of the anchors of every cell.
    """
    layers, logits, codes = params["rpn"], [], []
    for x in maps:
        hidden = jax.nn.relu(conv3x3(layers["conv"], x))
        logits.append(dense(layers["logit"], hidden).reshape(len(x), -1))
        codes.append(dense(layers["code"], hidden).reshape(len(x), -1, 4))
    return RPN(*(jnp.concatenate(each, axis=1).astype(jnp.float32) for each in (logits, codes)))


def propose(net: Net, found: RPN, height: int, width: int) -> Proposals:
    """Regions of images of height x width pixels, which have no gradient.

    Of the `before_nms` highest logits of all levels the boxes are decoded and cut to the image; those with a
    side below `least_side` go, and suppression keeps `proposals` of the rest. Departs from Lin et al. 2017,
    where every level is suppressed on its own.
    """
    config = net.config
    places = anchors(height, width, config.anchors)
    count = min(config.before_nms, len(places))

    def one(logits: Float[Array, " A"], codes: Float[Array, "A 4"]) -> Proposals:
        best, index = jax.lax.top_k(logits, count)
        boxes = clip(decode(codes[index], places[index], _NO_STDS), height, width)
        there = usable(boxes, config.least_side)
        kept = nms(boxes, best, config.proposal_nms, config.proposals, mask=there)
        chosen = jnp.where(kept.valid[:, None], boxes[kept.indices], 0.0)
        scores = jnp.where(kept.valid, jax.nn.sigmoid(best[kept.indices]), 0.0)
        return Proposals(chosen, scores, kept.valid)

    return jax.vmap(one)(*jax.lax.stop_gradient(found))


def pool(
    params: Any, net: Net, maps: Sequence[Float[Array, "_ _ channels"]], boxes: Float[Array, "R 4"]
) -> Float[Array, "R size size channels"]:
    """What regions of one image look like: each on the level of its area, in size x size bins.

    By ROI align, or by deformable pooling in two passes, whose boxes are inclusive. Boxes have no gradient.
    A level of `config.p6` is not looked at.
    """
    config, maps = net.config, maps[: len(net.strides)]
    levels = roi_levels(boxes, len(maps), config.canonical)
    if config.roi == "align":
        return align(maps, boxes, levels, net.strides, config.roi_size)
    return two_pass_pool(
        list(maps),
        boxes - jnp.asarray([[0.0, 0.0, 1.0, 1.0]]),
        partial(pooling_offsets, params["offsets"], levels=levels),
        config.roi_size,
        scales=tuple(1.0 / stride for stride in net.strides),
        levels=levels,
        lowering=_lowering(),
    )


def trunk(params: Any, net: Net, pooled: Float[Array, "R size size channels"]) -> Float[Array, "R F"]:
    """F = hidden[-1] features, float32, of what was pooled."""
    x = pooled.reshape(len(pooled), -1)
    for i in range(len(net.config.hidden)):
        x = dense(params["trunk"][f"dense_{i}"], x)
        x = jax.nn.relu(x if net.config.norm is None else layer_norm(params["trunk"][f"norm_{i}"], x))
    return x.astype(jnp.float32)


def box_codes(params: Any, net: Net, features: Float[Array, "R F"]) -> Float[Array, "R 4"]:
    """Of the object's box, relative to the region and divided by `box_stds`; one for all classes."""
    return dense(params["box"], features.astype(_dtype(params["box"], jnp.float32))).astype(jnp.float32)


def decoded(
    net: Net, codes: Float[Array, "R 4"], regions: Float[Array, "R 4"], height: int, width: int
) -> Float[Array, "R 4"]:
    """The boxes of `box_codes`, cut to the image."""
    return clip(decode(codes, regions, net.config.box_stds), height, width)


def _layers(widths: Sequence[int], config: DetectorConfig) -> dict[tuple[str, ...], Layer]:
    channels, ratios = config.channels, len(config.anchors.ratios)
    found: dict[tuple[str, ...], Layer] = {}
    for level, width in enumerate(widths):
        found["fpn", f"lateral_{level}"] = Layer((width, channels), 1.0)
        found["fpn", f"output_{level}"] = Layer((3, 3, channels, channels), 1.0)
    if config.p6 == "conv":
        found["fpn", "p6"] = Layer((3, 3, widths[-1], channels), 1.0)
    found["rpn", "conv"] = Layer((3, 3, channels, channels), 2.0)
    found["rpn", "logit"] = Layer((channels, ratios), deviation=0.01)
    found["rpn", "code"] = Layer((channels, 4 * ratios), deviation=0.01)
    inputs = config.roi_size**2 * channels
    for i, width in enumerate(config.hidden):
        found["trunk", f"dense_{i}"] = Layer((inputs, width), 2.0)
        inputs = width
    found[("box",)] = Layer((inputs, 4), deviation=0.001)
    return found


def _add_norms(params: dict[str, Any], levels: int, config: DetectorConfig) -> None:
    def norm(width: int) -> dict[str, Array]:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    params["fpn"] |= {f"norm_{level}": norm(config.channels) for level in range(levels)}
    params["trunk"] |= {f"norm_{i}": norm(width) for i, width in enumerate(config.hidden)}


def _lowering() -> Lowering:
    return "gather" if jax.default_backend() == "cpu" else "matmul"


def _dtype(params: Any, otherwise: Any) -> Any:
    """Of the first array of floats."""
    kinds = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return kinds[0] if kinds else otherwise


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
