"""Networks as plain functions of their parameters, with trained weights."""

from nemojax.networks.network import Network as Network
from nemojax.networks.pretrained import (
    efficientnet_lite as efficientnet_lite,
    efficientnet_lite0 as efficientnet_lite0,
)
