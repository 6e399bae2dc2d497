"""Published networks as workloads, generated from their layer tables: shapes alone, no weights.

Convolutions have batch norm, activation and residual add fused, as `trace` fuses them; pooling, the dense
layer and softmax follow as operations of their own.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..workload import Workload
from .bert import bert_base as bert_base
from .counts import parameters as parameters
from .mobilenet import efficientnet_lite0 as efficientnet_lite0, mobilenet_v2 as mobilenet_v2
from .resnet import resnet50 as resnet50, resnet101 as resnet101, resnext101_32x8d as resnext101_32x8d

NETWORKS: Mapping[str, Callable[..., Workload]] = {
    network.__name__: network
    for network in (mobilenet_v2, resnet50, resnet101, resnext101_32x8d, efficientnet_lite0, bert_base)
}
NAMES = tuple(NETWORKS)


def by_name(name: str, **options: Any) -> Workload:
    """`by_name("resnet50", batch=8)`: a built-in network; ValueError for an unknown name."""
    if name not in NETWORKS:
        raise ValueError(f"no built-in network {name!r}; there are {', '.join(NAMES)}")
    return NETWORKS[name](**options)
