"""Metrics of detection, each by its own rules and name: figures of different ones are not comparable."""

from fewshotjax.detection.metrics.auroc import OpenSet as OpenSet, auroc as auroc
from fewshotjax.detection.metrics.bootstrap import Interval as Interval, bootstrap as bootstrap
from fewshotjax.detection.metrics.coco import CocoAP as CocoAP, coco_ap as coco_ap
from fewshotjax.detection.metrics.pooled import PooledAP as PooledAP, repmet_pooled_ap as repmet_pooled_ap
from fewshotjax.detection.metrics.recall import class_agnostic_recall as class_agnostic_recall
from fewshotjax.detection.metrics.records import (
    Detections as Detections,
    GroundTruth as GroundTruth,
    no_detections as no_detections,
)
from fewshotjax.detection.metrics.voc import (
    VocAP as VocAP,
    episode_voc_ap as episode_voc_ap,
    voc_ap as voc_ap,
)
