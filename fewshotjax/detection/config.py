"""What a detector is made of, and what it is trained for: shapes, thresholds and weights."""

from dataclasses import dataclass
from typing import Literal

from ..fields import check_fields
from ..repmet_model import RepMetConfig
from .anchors import AnchorConfig
from .boxes import AUTHORS_STDS, Stds

# The authors' detector has 1,024 hidden units twice, D = 256, images of 800 pixels and 121 classes; this one
# is of a size for images of 64 to 200 pixels.
_ANCHORS = AnchorConfig()
_HEAD = RepMetConfig(modes=5, embedding=128, posterior="softmax", background=True, linear_weight=1.0)


@dataclass(frozen=True)
class DetectorConfig:
    """Shapes and branches of a detector; hashable, compared by value.

    Behind each field stands where its default comes from: "authors" is the released code of RepMet, as
    described, "ours" was chosen for images of 64 to 200 pixels, and a paper is named.

    Raises:
        ValueError: a field that is out of range, named with its value.
    """

    channels: int = 64  # of every level of the feature pyramid; ours, 256 in Lin et al. 2017 and authors
    # Strides are those of the pyramid's levels, with `p6` twice the last one behind them; scale ours, authors
    # 8.
    anchors: AnchorConfig = _ANCHORS
    # Behind the FPN, and of the dense layers before their ReLU: group and layer norm (Wu and He 2018). Ours:
    # without, maps with large means and a high rate leave all units of `hidden` at zero for good. None:
    # authors.
    norm: Literal["group"] | None = "group"
    # One more level, for proposals alone: every second cell of the coarsest one (Lin et al. 2017), or a 3x3
    # convolution of stride 2 on the pyramid's last map (authors). None: ours, as images of 64 to 200 pixels
    # have few objects of that size.
    p6: Literal["subsample", "conv"] | None = None
    # Proposals
    before_nms: int = 600  # boxes that suppression is given, the best of all levels; ours, authors 12,000
    proposals: int = 100  # R, the boxes that it leaves; ours, authors 2,000
    proposal_nms: float = 0.7  # IoU; Ren et al. 2015
    least_side: float = 4.0  # pixels, of a proposal; ours
    # Regions
    roi: Literal["align", "deformable"] = "align"  # ours; authors "deformable"
    roi_size: int = 7  # bins along each side; authors
    # Pixels of the side of a box on level 2; ours, 224 in Lin et al. 2017 and authors.
    canonical: float = 64.0
    hidden: tuple[int, ...] = (256, 256)  # dense layers, ReLU, on what is pooled; ours, authors 1,024 twice
    # On these; without `embedding` they are the embedding. Modes and posterior: authors.
    head: RepMetConfig = _HEAD
    box_stds: Stds = AUTHORS_STDS  # that the box head's codes are divided by; authors
    # Detection
    nms: float = 0.3  # IoU, of the boxes of one class; authors
    per_image: int = 100  # detections at most; COCO's limit
    least_score: float = 0.0  # detections have a score above it; authors
    # Training
    rpn_foreground: float = 0.7  # IoU from which on an anchor is an object; Ren et al. 2015
    rpn_background: float = 0.3  # IoU below which it is none; Ren et al. 2015
    rpn_samples: int = 64  # anchors of an image that count; ours, 256 in Ren et al. 2015 and authors
    rpn_share: float = 0.5  # of these that are objects at most; Ren et al. 2015
    # Pixels by which an anchor may reach beyond the image and count; ours None: any, as large ones always do
    # in small images. Ren et al. 2015 have 0.
    rpn_border: float | None = None
    region_foreground: float = 0.5  # IoU from which on a region has a class; authors
    hardest: int | None = 64  # regions of an image that count, by their loss; ours, authors 512; None: all
    rpn_weight: float = 1.0  # of the objectness loss; authors
    rpn_box_weight: float = 1.0  # of the anchors' box loss; authors
    rpn_sharpness: float = 3.0  # σ of its smooth L1 loss, quadratic below 1 / σ²; authors
    class_weight: float = 1.0  # of the head's losses, among which `head` weighs; authors
    box_weight: float = 1.0  # of the regions' box loss; authors
    box_sharpness: float = 1.0  # σ of its smooth L1 loss; authors
    # Embedding and linear loss are divided by the number of foreground regions; ours. False: by that of all
    # regions that count; authors, whose number is 512 even where fewer do.
    per_foreground: bool = True
    # What lies on a crowd or on a difficult object is no background: see `on_ignored`.
    ignored_overlap: float = 0.7  # share of a box inside of one; Detectron (Girshick et al. 2018)

    def __post_init__(self):
        check_fields(self)
        for name in ("channels", "before_nms", "proposals", "roi_size", "per_image", "rpn_samples"):
            _whole(name, getattr(self, name))
        if self.hardest is not None:
            _whole("hardest", self.hardest)
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise ValueError(
                f"hidden must be a tuple of one or more widths such as (256, 256), got {self.hidden}"
            )
        for width in self.hidden:
            _whole("hidden", width)
        if self.proposals > self.before_nms:
            raise ValueError(
                f"proposals must not be above before_nms, got {self.proposals} of {self.before_nms}: "
                "raise before_nms"
            )
        for name in ("proposal_nms", "nms", "rpn_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        for name in ("rpn_foreground", "region_foreground", "ignored_overlap"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if not 0 <= self.rpn_background <= self.rpn_foreground:
            raise ValueError(
                f"rpn_background must be 0 to rpn_foreground ({self.rpn_foreground}), "
                f"got {self.rpn_background}"
            )
        if not isinstance(self.box_stds, tuple):
            raise ValueError(f"box_stds must be a tuple of 4 numbers, of x, y, w, h, got {self.box_stds}")
        above = {name: getattr(self, name) for name in ("canonical", "rpn_sharpness", "box_sharpness")}
        above |= {f"box_stds[{i}]": std for i, std in enumerate(self.box_stds)}
        for name, value in above.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("least_side", "rpn_weight", "rpn_box_weight", "class_weight", "box_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.rpn_border is not None and not 0 <= self.rpn_border < float("inf"):
            raise ValueError(f"rpn_border must not be negative, or None, got {self.rpn_border}")
        if not 0 <= self.least_score < 1:
            raise ValueError(f"least_score must be 0 to below 1, a probability, got {self.least_score}")
        if self.p6 not in (None, "subsample", "conv"):
            raise ValueError(f"p6 must be subsample, conv or None, got {self.p6!r}")
        if self.norm not in ("group", None):
            raise ValueError(f"norm must be group or None, got {self.norm!r}")
        if self.roi not in ("align", "deformable"):
            raise ValueError(f"roi must be align or deformable, got {self.roi!r}")
        if not self.head.background:
            raise ValueError(
                "head must have a background, as most regions show no object: RepMetConfig(background=True, "
                f"posterior='softmax'), got posterior={self.head.posterior!r} without"
            )


def _whole(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
