"""Backbones: networks that turn images into features."""

from .backbone import Backbone as Backbone
from .features import FeaturesChunk as FeaturesChunk, features as features
from .function import from_function as from_function, without_layer as without_layer
from .networks import Conv4 as Conv4, ResNet12 as ResNet12, ResNet18Small as ResNet18Small
from .preprocess import Preprocess as Preprocess, raw as raw
from .registry import BACKBONES as BACKBONES, backbone as backbone
from .saved import load_backbone as load_backbone, save_backbone as save_backbone
