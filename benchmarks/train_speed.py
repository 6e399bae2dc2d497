"""Training steps of the networks for 32x32 images against PyTorch on the same machine.

128 drawn images a step, Nesterov momentum on both sides; ours also crops and mirrors, and keeps the mean of
the weights. PyTorch runs channels-last on all cores. Medians of rounds that take turns, images a second.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import nemojax as nemo
from nemojax.training.step import begin, run

from . import zoo_torch
from .common import QUICK, finish, say, time_side_by_side
from .torch_rival import CORES

NETWORKS = ("resnet20_cifar",) if QUICK else ("mobilenet_v2_cifar", "resnet20_cifar")
BATCH, STEPS = 128, 3
ROUNDS = 3 if QUICK else 7


def measure(name: str) -> dict[str, Any]:
    """Images a second of one network."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH * 10, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, len(images)).astype(np.int32)
    net = nemo.networks.by_name(name, None, jax.random.key(0))
    config = nemo.training.TrainConfig(epochs=3, batch=BATCH)
    state = begin(net.params, config, 30)
    data = jnp.asarray(images), jnp.asarray(labels), jnp.asarray(STEPS, jnp.int32)

    def ours() -> Any:
        return run(jax.random.key(1), state, *data, net.apply, net.preprocess, config)

    model = zoo_torch.convolutional(name, 32).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
    pixels = torch.from_numpy(images[:BATCH]).permute(0, 3, 1, 2).float() / 255
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    wanted = torch.from_numpy(labels[:BATCH]).long()

    def theirs() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pixels), wanted).backward()
            optimizer.step()

    torch.set_num_threads(CORES)
    times = time_side_by_side({"ours": ours, "torch": theirs}, ROUNDS)
    speed = {side: BATCH * STEPS / float(np.median(seconds)) for side, seconds in times.items()}
    say(f"{name}: {speed['ours']:.0f} images a second, PyTorch {speed['torch']:.0f}")
    return {"images_per_s": speed, "ratio_vs_torch": speed["ours"] / speed["torch"]}


def main() -> None:
    compiled = run._cache_size()
    rows = {name: measure(name) for name in NETWORKS}
    finish(
        "train_speed",
        {
            "settings": {"batch": BATCH, "steps": STEPS, "rounds": ROUNDS, "torch": torch.__version__},
            "networks": rows,
            "compiles": run._cache_size() - compiled,
        },
    )


if __name__ == "__main__":
    main()
