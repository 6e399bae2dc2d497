"""On an accelerator: the evaluator (lowerings, candidates one by one or vmapped), and placements a second.

`make bench-gpu` runs it with the Python of the machine. It needs no PyTorch and no data: weights are drawn,
images are noise, since only the time is measured. On a CPU it runs too, for a test of itself.
"""

import jax
import jax.numpy as jnp

import hwmodel as hw
import nemojax as nemo

from .common import QUICK, finish, time_side_by_side

ON_CPU = jax.default_backend() == "cpu"
RESOLUTION, IMAGES, CANDIDATES = (32, 8, 2) if ON_CPU else (160, 256, 8)
ROUNDS = 3 if QUICK else 10


@jax.jit
def one_by_one(network: nemo.QuantizedNetwork, bits: jax.Array, images: jax.Array) -> jax.Array:
    return jax.lax.map(lambda row: network.quantized_logits(row, images), bits)


@jax.jit
def vmapped(network: nemo.QuantizedNetwork, bits: jax.Array, images: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: network.quantized_logits(row, images))(bits)


@jax.jit
def full_precision(network: nemo.QuantizedNetwork, images: jax.Array) -> jax.Array:
    return network.logits(images)


def placements_per_s() -> dict[str, float]:
    """Random placements of fine BERT, rectified and timed."""
    work, chip = hw.zoo.bert_base(granularity="fine"), hw.load_chip("nnp_i_tight", warn=False)
    problem, run = hw.problem(work, chip), jax.jit(hw.evaluate)
    runs, counts = {}, (1_000, 10_000) if ON_CPU else (10_000, 100_000, 1_000_000)
    for count in counts:
        wishes = jax.random.randint(jax.random.key(1), (count, len(work.operations), 2), 0, len(chip.levels))
        runs[f"{count} at once"] = lambda w=wishes: run(problem, w).latency_s
    times = time_side_by_side(runs, ROUNDS)
    return {n: round(c / float(t.min())) for (n, t), c in zip(times.items(), counts, strict=True)}


def main() -> None:
    k_weights, k_images, k_bits = jax.random.split(jax.random.key(0), 3)
    net = nemo.efficientnet_lite0(None, k_weights, resolution=RESOLUTION)
    images = jax.random.normal(k_images, (IMAGES, RESOLUTION, RESOLUTION, 3))
    runs, error = {}, {}
    for lowering in ("xla", "cpu"):
        network = nemo.quantize(net, images[:4], lowering=lowering)
        bits = nemo.search_space(network).sample(k_bits, CANDIDATES)
        runs |= {
            f"{lowering}, fp32": lambda n=network: full_precision(n, images),
            f"{lowering}, one by one": lambda n=network, b=bits: one_by_one(n, b, images),
            f"{lowering}, vmapped": lambda n=network, b=bits: vmapped(n, b, images),
        }
        logits = full_precision(network, images)
        error[lowering] = float(jnp.abs(logits - net.apply(net.params, images)).max() / jnp.abs(logits).max())
    times = time_side_by_side(runs, ROUNDS)
    per = {n: IMAGES * (1 if "fp32" in n else CANDIDATES) / float(t.min()) for n, t in times.items()}
    finish(
        "gpu",
        {
            "settings": {
                "resolution": RESOLUTION,
                "images": IMAGES,
                "candidates": CANDIDATES,
                "rounds": ROUNDS,
            },
            "images_per_s": {name: round(value, 1) for name, value in per.items()},
            "relative_error": error,
            "placements_per_s": placements_per_s(),
        },
        store=not ON_CPU,
    )


if __name__ == "__main__":
    main()
