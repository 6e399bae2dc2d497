"""Methods of few-shot detection: RepMet's, and the baselines that it is compared with."""

from .fine_tuned import fine_tuned as fine_tuned
from .linear import linear as linear
from .means import (
    class_mean as class_mean,
    external as external,
    nearest as nearest,
    prototype_regions as prototype_regions,
)
from .method import DetectionMethod as DetectionMethod, Scores as Scores
from .registry import (
    DETECTION_METHODS as DETECTION_METHODS,
    detection_method as detection_method,
    register_detection_method as register_detection_method,
)
from .repmet import RepMetModel as RepMetModel, repmet as repmet, trained as trained
