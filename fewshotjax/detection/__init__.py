"""Few-shot detection (Karlinsky et al. 2019): detectors, their training, new classes, episodes.

Parts are pure functions with fixed shapes and masks; those of one image are to be vmapped over images.
A person with photographs needs `fewshotjax.detector`, `new_classes` and `detect`.
"""

from .anchors import AnchorConfig as AnchorConfig, anchors as anchors, level_shapes as level_shapes
from .assign import (
    BACKGROUND as BACKGROUND,
    FOREGROUND as FOREGROUND,
    IGNORE as IGNORE,
    Assignment as Assignment,
    assign_anchors as assign_anchors,
    assign_proposals as assign_proposals,
    hardest as hardest,
    on_ignored as on_ignored,
    sample_balanced as sample_balanced,
    with_truth as with_truth,
)
from .augmentation import AUTHORS_AUGMENTATION as AUTHORS_AUGMENTATION, Augmentation as Augmentation
from .boxes import (
    AUTHORS_STDS as AUTHORS_STDS,
    Convention as Convention,
    areas as areas,
    check_boxes as check_boxes,
    clip as clip,
    decode as decode,
    encode as encode,
    inside as inside,
    pairwise_ioa as pairwise_ioa,
    pairwise_iou as pairwise_iou,
    sides as sides,
    usable as usable,
)
from .chosen import Chosen as Chosen, choose as choose
from .config import DetectorConfig as DetectorConfig
from .deformable import (
    deformable_roi_pool as deformable_roi_pool,
    init_pooling_offsets as init_pooling_offsets,
    pooling_offsets as pooling_offsets,
    two_pass_pool as two_pass_pool,
)
from .detector import (
    RPN as RPN,
    Detector as Detector,
    Net as Net,
    Proposals as Proposals,
    box_codes as box_codes,
    decoded as decoded,
    feature_maps as feature_maps,
    init_detector as init_detector,
    propose as propose,
    rpn as rpn,
    trunk as trunk,
)
from .detector_files import load_detector as load_detector, save_detector as save_detector
from .episodes import (
    DetectionEpisodes as DetectionEpisodes,
    draw_detection_episodes as draw_detection_episodes,
    listed_episodes as listed_episodes,
)
from .found_objects import FoundObjects as FoundObjects
from .losses import Losses as Losses, Truth as Truth, detector_loss as detector_loss
from .methods import (
    DETECTION_METHODS as DETECTION_METHODS,
    DetectionMethod as DetectionMethod,
    detection_method as detection_method,
    register_detection_method as register_detection_method,
)
from .new_classes import NewClasses as NewClasses, new_classes as new_classes
from .nms import class_nms as class_nms, nms as nms
from .pool import (
    DetectionPool as DetectionPool,
    detection_pool as detection_pool,
    external_pool as external_pool,
    floor_pool as floor_pool,
)
from .pyramid_plugins import installed_pyramids as installed_pyramids, plugin_pyramid as plugin_pyramid
from .pyramids import (
    Pyramid as Pyramid,
    pyramid as pyramid,
    pyramid_from_function as pyramid_from_function,
    pyramid_of as pyramid_of,
)
from .queries import (
    QuerySource as QuerySource,
    frame_regions as frame_regions,
    mosaic_queries as mosaic_queries,
)
from .regions import (
    Regions as Regions,
    RegionsChunk as RegionsChunk,
    box_features as box_features,
    find_regions as find_regions,
    regions_of as regions_of,
)
from .results import DetectionComparison as DetectionComparison, DetectionResult as DetectionResult
from .roi import roi_align as roi_align, roi_levels as roi_levels
from .score import (
    Found as Found,
    Scoring as Scoring,
    score_regions as score_regions,
    scoring_of as scoring_of,
    suppress as suppress,
)
from .support import (
    Support as Support,
    SupportBoxes as SupportBoxes,
    SupportConfig as SupportConfig,
    class_rows as class_rows,
    representatives_of as representatives_of,
    support_features as support_features,
)
from .task import compare_detection as compare_detection, evaluate_detection as evaluate_detection
from .training import (
    DetectorChunk as DetectorChunk,
    DetectorEpoch as DetectorEpoch,
    DetectorTrainConfig as DetectorTrainConfig,
    Drawn as Drawn,
    Source as Source,
    TrainedDetector as TrainedDetector,
    fixed as fixed,
    mosaics as mosaics,
    train_detector as train_detector,
)
from .tuning import DetectionTuning as DetectionTuning, tune as tune
