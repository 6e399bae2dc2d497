"""Labelled images in memory: the user's own, and the sets that the figures are measured on."""

from fewshotjax.data.cifar10 import cifar10 as cifar10
from fewshotjax.data.folder import folder as folder, pictures as pictures
from fewshotjax.data.labelled import (
    LabelledImages as LabelledImages,
    Pictures as Pictures,
    check_disjoint as check_disjoint,
    concatenate as concatenate,
    duplicates as duplicates,
    from_arrays as from_arrays,
)
from fewshotjax.data.omniglot import omniglot as omniglot
from fewshotjax.data.table import (
    LabelledFeatures as LabelledFeatures,
    csv_table as csv_table,
    feature_table as feature_table,
)
from fewshotjax.data.tiny_imagenet import (
    tiny_imagenet as tiny_imagenet,
    tiny_imagenet_boxes as tiny_imagenet_boxes,
)
