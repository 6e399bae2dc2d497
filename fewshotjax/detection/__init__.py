"""Parts of detectors: pure functions of one image, with fixed shapes and masks; callers vmap over images."""

from .anchors import AnchorConfig as AnchorConfig, anchors as anchors, level_shapes as level_shapes
from .assign import (
    BACKGROUND as BACKGROUND,
    FOREGROUND as FOREGROUND,
    IGNORE as IGNORE,
    Assignment as Assignment,
    assign_anchors as assign_anchors,
    assign_proposals as assign_proposals,
    hardest as hardest,
    sample_balanced as sample_balanced,
    with_truth as with_truth,
)
from .boxes import (
    AUTHORS_STDS as AUTHORS_STDS,
    Convention as Convention,
    areas as areas,
    check_boxes as check_boxes,
    clip as clip,
    decode as decode,
    encode as encode,
    inside as inside,
    pairwise_iou as pairwise_iou,
    sides as sides,
    usable as usable,
)
from .chosen import Chosen as Chosen, choose as choose
from .deformable import (
    deformable_roi_pool as deformable_roi_pool,
    init_pooling_offsets as init_pooling_offsets,
    pooling_offsets as pooling_offsets,
    two_pass_pool as two_pass_pool,
)
from .nms import class_nms as class_nms, nms as nms
from .roi import roi_align as roi_align, roi_levels as roi_levels
