"""Training of detectors: base classes, all losses together, without episodes."""

from .config import DetectorTrainConfig as DetectorTrainConfig
from .history import DetectorChunk as DetectorChunk, DetectorEpoch as DetectorEpoch
from .sources import Drawn as Drawn, Source as Source, fixed as fixed, mosaics as mosaics
from .train import TrainedDetector as TrainedDetector, train_detector as train_detector
