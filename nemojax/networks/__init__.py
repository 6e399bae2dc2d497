"""Networks as plain functions of their parameters, with weights from files of other programs."""

from nemojax.networks.bert import bert_base as bert_base, minilm_l6 as minilm_l6
from nemojax.networks.efficientnet_lite import (
    efficientnet_lite as efficientnet_lite,
    efficientnet_lite0 as efficientnet_lite0,
    efficientnet_lite1 as efficientnet_lite1,
    efficientnet_lite2 as efficientnet_lite2,
)
from nemojax.networks.mobilenet import (
    mobilenet_v2 as mobilenet_v2,
    mobilenet_v2_cifar as mobilenet_v2_cifar,
)
from nemojax.networks.network import Network as Network
from nemojax.networks.registry import NETWORKS as NETWORKS, by_name as by_name
from nemojax.networks.resnet_members import (
    resnet50 as resnet50,
    resnet101 as resnet101,
    resnet_cifar as resnet_cifar,
    resnext101_32x8d as resnext101_32x8d,
    resnext_cifar as resnext_cifar,
)
from nemojax.networks.saved import load_weights as load_weights, save_weights as save_weights
