"""New classes from boxes: what an episode shows, the features taken from it, and the representatives made of
them.

As RepMet's detector does it (Karlinsky et al. 2019; read in the authors' released code): of each support box
the regions that overlap it with IoU ≥ .7, suppressed with the IoU as their score, are examples of its class.
Their embeddings are the class's modes, or k-means centres of more than there are modes. Two boxes that have
IoU ≥ .7 with a third have at least .4 with each other, so that suppression at .3 leaves one region of each
box. The IoU of half-open boxes here is that of the authors' code, whose boxes end at their last pixel and are
one wider than the difference of their corners.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..distances import l2_normalize
from ..fields import check_fields
from ..repmet_model import RepMetConfig, embed, representatives
from ..representatives import Representatives, fit_representatives
from .boxes import pairwise_iou
from .chosen import Chosen, choose
from .detector import Net
from .nms import nms
from .regions import Regions

_FILLER = 1000.0  # what the authors' code writes into erased classes and missing modes


@dataclass(frozen=True)
class SupportConfig:
    """What becomes of support boxes.

    Raises:
        ValueError: a field out of range; it is named.
    """

    iou: float = 0.7  # from which on a region is an example of the box's class; authors
    nms: float = 0.3  # IoU, among these, with their IoU with the box as score; 1: all of them are kept
    regions: int = 1  # of a box at most, the best by IoU; 0: only the boxes themselves
    # The box itself is an example, always (ours). False: only where no region overlaps it enough.
    include_truth: bool = True
    per_class: int | None = None  # examples of a class at most, boxes before regions; authors: the shots
    modes: int | None = None  # K; None: max(5, 2 * shots), authors
    keep_base: bool = False  # the classes that the detector was trained on compete, too; else they are absent
    # The authors': classes trained on stay as constants, and so do missing modes. After normalisation these
    # are one ordinary vector, all of whose coordinates are equal, which draws probability from what is near.
    compat_filler: bool = False
    compat_support: bool = False  # authors: a box without such a region is passed over, and no box is its own

    def __post_init__(self):
        check_fields(self)
        for name in ("iou", "nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.regions < 0 or (self.compat_support and not self.regions):
            raise ValueError(
                f"regions must be at least {int(self.compat_support)}, got {self.regions}: 1 is what "
                "suppression leaves"
            )
        for name in ("per_class", "modes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {getattr(self, name)}")

    def modes_of(self, shots: int) -> int:
        """K."""
        return max(5, 2 * shots) if self.modes is None else self.modes


class SupportBoxes(NamedTuple):
    """What is shown of W classes: B = W · shots boxes, those missing of a class padded.

    Features are the detector's trunk features, before its embedding, or another network's.
    """

    features: Float[Array, "B F"]  # of the boxes themselves
    boxes: Float[Array, "B 4"]  # pixels
    labels: Int[Array, " B"]  # 0 to W - 1; W: padding
    photograph: Int[Array, " B"]  # any number; equal where two boxes are in one photograph
    regions: Regions  # (B, R, ...) of each box's photograph
    # Number of each among the classes that the detector was trained on, -1: new; (W, P) of merged ones.
    classes: Int[Array, "W ..."]
    images: Any = None  # (B, H, W, C) uint8, each box's photograph, for tuning that looks at them
    # (B, I, 4) crowds and difficult boxes of each box's photograph, 0: padding; None: there are none
    ignored: Any = None


class Support(NamedTuple):
    """S = B · (1 + regions) examples: the boxes themselves, then the regions of each."""

    features: Float[Array, "S F"]
    labels: Int[Array, " S"]  # W where there is none
    mask: Bool[Array, " S"]


def support_features(shown: SupportBoxes, ways: int, config: SupportConfig) -> Support:
    """The examples of the W classes: boxes, and the regions on them."""
    there, count = shown.labels < ways, config.regions

    def near(proposals: Any, mask: Any, box: Array) -> Chosen:
        iou = pairwise_iou(proposals, box[None])[:, 0]
        near = mask & (iou >= config.iou)
        if count == 1:
            return choose(iou, near, 1)  # the first that suppression keeps
        return nms(proposals, iou, config.nms, count, mask=near)

    found = jax.vmap(near)(shown.regions.proposals, shown.regions.mask, shown.boxes) if count else None
    if found is None:
        mask, features, labels = there, shown.features, shown.labels
    else:
        taken = jnp.take_along_axis(shown.regions.features, found.indices[..., None], axis=1)
        features = jnp.concatenate([shown.features, taken.reshape(-1, taken.shape[-1])])
        labels = jnp.concatenate([shown.labels, jnp.repeat(shown.labels, count)])
        own = there & (config.include_truth | ~jnp.any(found.valid, axis=1)) & (not config.compat_support)
        mask = jnp.concatenate([own, (found.valid & there[:, None]).reshape(-1)])
    if config.per_class is not None:
        member = (labels[None] == jnp.arange(ways)[:, None]) & mask[None]
        mask &= jnp.any(member & (jnp.cumsum(member, axis=1) <= config.per_class), axis=0)
    return Support(features, jnp.where(mask, labels, ways), mask)


def representatives_of(
    key: PRNGKeyArray,
    params: Any,
    net: Net,
    shown: SupportBoxes,
    ways: int,
    config: SupportConfig | None = None,
) -> Representatives:
    """K modes of each new class, in the embedding of the detector.

    A class without usable support has no mode (with `compat_filler`, constant ones). Behind the new classes
    stand those that the detector was trained on, with `keep_base`, or constants in their place, with
    `compat_filler`.

    Args:
        key: of k-means.
        params, net: of the detector.
        ways: W, static.

    Raises:
        ValueError: the number of boxes is no multiple of W.
    """
    config = config or SupportConfig()
    shots, head = _shots(shown, ways), net.config.head
    support = support_features(shown, ways, config)
    e = embed(params["repmet"], head, support.features)
    found = class_modes(
        key, e, support.labels, ways, shots * (1 + config.regions), config.modes_of(shots), head
    )
    return _with_base(params, head, found, config)


def class_modes(
    key: PRNGKeyArray,
    embeddings: Float[Array, "S D"],
    labels: Int[Array, " S"],
    ways: int,
    most: int,
    modes: int,
    head: RepMetConfig,
) -> Representatives:
    """`fit_representatives` of classes that have no more than `most` examples: no k-means is compiled where K
    is not below that.
    """
    member = labels[None] == jnp.arange(ways)[:, None]
    order = jnp.argsort(~member, axis=1, stable=True)[:, :most]
    own = jnp.take_along_axis(member, order, axis=1)

    def one(key: PRNGKeyArray, e: Array, own: Array) -> Representatives:
        label = jnp.where(own, 0, 1)
        found = fit_representatives(key, e, label, 1, modes, normalize=head.normalize_representatives)
        return Representatives(found.modes[0], found.mask[0])

    return jax.vmap(one)(jax.random.split(key, ways), embeddings[order], own)


def class_rows(
    labels: Int[np.ndarray, " B"], ways: int
) -> tuple[Int[np.ndarray, "W shots"], Bool[np.ndarray, "W shots"]]:
    """Boxes class by class, padded to the most of a class: rows of them, 0 for padding, and which are there.

    Raises:
        ValueError: labels outside 0 to W - 1, or no boxes at all.
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= ways:
        raise ValueError(f"labels must be 0 to {ways - 1}, at least one, got {labels.tolist()[:5]}")
    counts = np.bincount(labels, minlength=ways)
    rows = np.zeros((ways, counts.max()), np.int32)
    for way in range(ways):
        rows[way, : counts[way]] = np.flatnonzero(labels == way)
    return rows, np.arange(counts.max())[None] < counts[:, None]


def _shots(shown: SupportBoxes, ways: int) -> int:
    if len(shown.labels) % ways or not len(shown.labels):
        raise ValueError(
            f"boxes are {len(shown.labels)} of {ways} classes: pad each to equally many (class_rows)"
        )
    return len(shown.labels) // ways


def _with_base(
    params: Any, head: RepMetConfig, found: Representatives, config: SupportConfig
) -> Representatives:
    """Behind the new classes those trained on, and fillers, as the config says."""
    width = found.modes.shape[2]
    filler = jnp.full((1, 1, width), _FILLER, found.modes.dtype)
    filler = l2_normalize(filler) if head.normalize_representatives else filler
    if config.compat_filler:
        modes = jnp.where(found.mask[..., None], found.modes, filler)
        found = Representatives(modes, jnp.ones_like(found.mask))
    if not (config.keep_base or config.compat_filler):
        return found
    base = representatives(params["repmet"], head)
    if not config.keep_base:
        # Its modes are all alike, so that one is enough.
        base = Representatives(jnp.broadcast_to(filler, (len(base.modes), 1, width)), base.mask[:, :1])
    count = max(found.modes.shape[1], base.modes.shape[1])

    def padded(some: Representatives) -> Representatives:
        more = count - some.modes.shape[1]
        return Representatives(
            jnp.pad(some.modes, ((0, 0), (0, more), (0, 0))), jnp.pad(some.mask, ((0, 0), (0, more)))
        )

    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), padded(found), padded(base))
