"""A network small enough to compile in a second, in the shape of the real one."""

import jax
import pytest

from nemojax.networks import Network, efficientnet_lite
from nemojax.networks.efficientnet_lite import Config, Stage

SMALL = Config(
    resolution=16,
    classes=1000,
    stem_channels=8,
    head_channels=16,
    stages=(Stage(1, 3, 1, 1, 8), Stage(2, 3, 2, 2, 8)),
)


@pytest.fixture(scope="session")
def small_network():
    """Stands in for `efficientnet_lite0`: the same arguments, weights drawn."""

    def make(weights="imagenet", key=None, *, resolution=16) -> Network:
        return efficientnet_lite(SMALL, None, jax.random.key(5), name="small", resolution=resolution)

    return make
