"""Labelled pictures, from where they lie to batches of a network's inputs."""

from nemojax.data.augment import (
    Augment as Augment,
    CropFlip as CropFlip,
    ResizedCropFlip as ResizedCropFlip,
    crop_flip as crop_flip,
)
from nemojax.data.cifar import cifar10 as cifar10
from nemojax.data.class_table import class_table as class_table
from nemojax.data.imagenet import has_part as has_part, imagenet as imagenet
from nemojax.data.labelled import (
    ArrayPictures as ArrayPictures,
    Labelled as Labelled,
    LabelledArrays as LabelledArrays,
    Pictures as Pictures,
    in_memory as in_memory,
    pictures as pictures,
)
from nemojax.data.pipeline import Batch as Batch, Batches as Batches, batches as batches
