"""Small networks, searches and chips that stand in the place of large ones, or of the reader's own.

What is small is said here, in pictures.py and in pages.py; all else of a page is run as it is printed.
"""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
import nemojax as nemo
from nemojax.export import export_onnx
from nemojax.networks import resnet_cifar

from .pictures import pictures_array

KEY = jax.random.key(0)
SIDE = 16  # pixels of the small network's images
CLASSES = 10


def small_network(weights="imagenet", key=None, *, resolution=None, classes=None) -> nemo.Network:
    """A convolution and a dense layer with drawn weights, in the place of any network by name."""
    size = resolution or SIDE
    rng = np.random.default_rng(0)
    shapes = {"stem": (3, 3, 3, 8), "head": (8, CLASSES)}
    params = {name: rng.normal(size=shape).astype(np.float32) / 5 for name, shape in shapes.items()}
    return nemo.Network("small", _apply, params, nemo.Preprocess(size), "drawn for this test")


def _apply(params, images):
    window, layout = (4, 4), ("NHWC", "HWIO", "NHWC")
    hidden = jax.lax.conv_general_dilated(images, params["stem"], window, "SAME", dimension_numbers=layout)
    return jnp.mean(jax.nn.relu(hidden), axis=(1, 2)) @ params["head"]


def small_networks(patch: pytest.MonkeyPatch) -> None:
    """Commands and `nemo.efficientnet_lite0` make `small_network`; those for CIFAR-10 are small ResNets."""

    def by_name(name, weights=None, key=None, **options):
        if name.endswith("_cifar"):
            return resnet_cifar(weights, key, depth=8, width=4)
        return small_network(weights, key, **options)

    patch.setattr(nemo, "efficientnet_lite0", small_network)
    patch.setattr("nemojax.setup_run.by_name", by_name)
    patch.setattr("nemojax.networks.by_name", by_name)
    patch.setattr("nemojax.cli_train.VALIDATION", 10)


class Small(nn.Module):
    """A network of one's own, in Flax linen."""

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Conv(16, (3, 3), strides=(2, 2), name="stem")(images))
        hidden = nn.relu(hidden + nn.Conv(16, (3, 3), name="point")(hidden))
        return nn.Dense(5, name="head")(hidden.mean(axis=(1, 2)))


def own_model() -> dict[str, object]:
    """`model` and `variables`, and pictures for it."""
    model = Small()
    variables = model.init(KEY, pictures_array(1))
    return {"model": model, "variables": variables}


def small_search(**changes) -> nemo.NemoConfig:
    """Two species of six members: what takes time in a search is compiling its species."""
    return nemo.NemoConfig(**{"population": 6, "species": ("continuous", "floor"), **changes})


def small_egrl(**changes) -> egrl.EGRLConfig:
    """`egrl.tuned` with a policy and a population that compile in seconds."""
    config = egrl.tuned(3)
    return replace(
        config,
        **{
            "budget": 30, "policies": 4, "policy_elites": 2, "chromosomes": 6, "chromosome_elites": 2,
            "screen": 2,
            "policy": replace(config.policy, block="gcn", hidden=8, heads=2),
            "learner": replace(config.learner, critic_steps=2, actor_steps=1, batch=8, samples=2),
            **changes,
        },
    )  # fmt: skip


def small_shared(levels: int = 3, budget: int = 60) -> egrl.EGRLConfig:
    """In the place of `shared_config`."""
    return small_egrl(budget=budget, chromosomes=0, chromosome_elites=0, seed_every=0)


def small_chip(name: str = "small", times: int = 1) -> hw.Chip:
    """Three levels, of which two are too small for everything."""
    rooms = (("dram", 1e9, None), ("llc", 1e10, 900 * times), ("sram", 1e11, 300 * times))
    levels = tuple(hw.Level(name, speed, speed, room) for name, speed, room in rooms)
    return hw.Chip(name, levels, (hw.Rate(8, 8, 1e12),))


def small_work(seed: int = 20, nodes: int = 5) -> hw.Workload:
    return hw.random_workload(seed, nodes, weight_elems=(100, 600), output_elems=(20, 300))


def chip_files(*names: str) -> None:
    for name in names:
        hw.save_chip(name, small_chip())


def onnx_files(*names: str) -> None:
    """The network of one's own, at 8 bits."""
    made = own_model()
    network = nemo.quantize(nemo.quantizable(made["model"], made["variables"]), pictures_array(4))
    for name in names:
        export_onnx(name, network, np.full(len(network.workload.points), 8), batch=1)


def run_and_time(placement) -> float:
    """A board: the more lies on fast levels, the quicker."""
    return 1e-3 / (1 + int(np.sum(placement)))
