"""Images with boxes: files of COCO and VOC, the measured sets, scenes of photographs, lists of episodes."""

from fewshotjax.detection.data.annotations import (
    Annotations as Annotations,
    read_images as read_images,
    with_images as with_images,
)
from fewshotjax.detection.data.bccd import bccd as bccd, bccd_annotations as bccd_annotations
from fewshotjax.detection.data.boxed import BoxedImages as BoxedImages, boxed as boxed
from fewshotjax.detection.data.coco import (
    read_coco as read_coco,
    read_coco_detections as read_coco_detections,
    write_coco as write_coco,
    write_coco_detections as write_coco_detections,
)
from fewshotjax.detection.data.episode_files import (
    DetectionEpisode as DetectionEpisode,
    SupportBox as SupportBox,
    load_detection_episodes as load_detection_episodes,
    save_detection_episodes as save_detection_episodes,
)
from fewshotjax.detection.data.fit import Fitted as Fitted, fitted as fitted
from fewshotjax.detection.data.floors import Floors as Floors, floors as floors
from fewshotjax.detection.data.mosaics import (
    Mosaic as Mosaic,
    MosaicConfig as MosaicConfig,
    mosaic as mosaic,
)
from fewshotjax.detection.data.repmet_episodes import repmet_episodes as repmet_episodes
from fewshotjax.detection.data.scenes import (
    Scenes as Scenes,
    check_no_novel as check_no_novel,
    query_scenes as query_scenes,
    training_scenes as training_scenes,
)
from fewshotjax.detection.data.tiny_imagenet import tiny_imagenet_boxed as tiny_imagenet_boxed
from fewshotjax.detection.data.voc import read_voc as read_voc
