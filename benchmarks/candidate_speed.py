"""One quantized candidate of EfficientNet-Lite0 against full precision and against PyTorch, in one process.

64 images at 160², each of the 110 points at 2-8 random bits. Two rivals, both channels-last, batch norms
folded, inference mode, at the thread count that is fastest here:
  torch        what a user of PyTorch writes: the 64 images in one call, PyTorch's own fake-quantize operators
  torch_tuned  eager PyTorch as fast as we could make it (benchmarks/torch_rival.py): micro-batches, scales
               folded into kernels, hand-written in-place rounding, oneDNN's packed kernels
`ratio_vs_torch` is the first's time over ours. All runs take turns, and a ratio is of the two medians.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

import nemojax as nemo
from nemojax.networks.pretrained import lite0_file
from nemojax.quantized import compiled_logits

from . import torch_rival
from .common import QUICK, finish, say, time_side_by_side

IMAGES, RESOLUTION, CONFIGURATIONS = 64, 160, 100
ROUNDS = 3 if QUICK else 15


@jax.jit
def full_precision(network: nemo.QuantizedNetwork, images: jax.Array) -> jax.Array:
    return network.logits(images)


def main() -> None:
    parts = nemo.sample_photographs(
        jax.random.key(0), nemo.Preprocess(resolution=RESOLUTION), calibration=16, search=IMAGES, report=1
    ).parts
    network = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    config = nemo.QuantizerConfig(activation_range="minmax")  # one range a point, as the rival has it
    quantized = nemo.quantize(network, parts.calibration.images, config)
    images = jnp.asarray(parts.search.images)
    drawn = nemo.search_space(quantized).sample(jax.random.key(1), CONFIGURATIONS)
    bits = np.asarray(drawn[0])

    rival = torch_rival.build(torch.load(lite0_file(), weights_only=True))
    pixels = (
        torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    )
    rival.ranges = {
        point.name: (float(quantized.ranges.low[i, 8]), float(quantized.ranges.high[i, 8]))
        for i, point in enumerate(quantized.workload.points)
        if not point.is_weight
    }
    threads = _best_threads(rival, pixels)
    if QUICK:
        rival.settings = torch_rival.Settings("aten", 8, 1, torch_rival.CORES)
    else:
        rival.best_settings(pixels, bits.tolist())
    say(f"rivals: torch on {threads} threads; tuned with {rival.settings}")

    def plain(*arguments, **options):
        torch.set_num_threads(threads)
        return rival.plain(pixels, *arguments, **options)

    candidates = iter(np.resize(drawn, (10_000, bits.size)))
    times = time_side_by_side(
        {
            "fp32": lambda: full_precision(quantized, images),
            "quantized": lambda: compiled_logits(quantized, jnp.asarray(next(candidates))[None], images),
            "torch_fp32": plain,
            "torch_quantized": lambda: plain(bits.tolist(), operator=True),
            "torch_tuned_fp32": lambda: rival.fp32(pixels),
            "torch_tuned_quantized": lambda: rival.quantized(pixels, bits.tolist()),
        },
        ROUNDS,
    )
    for row in drawn:
        compiled_logits(quantized, row[None], images).block_until_ready()
    compiles = len(quantized.traced.compilations)  # of everything above, timed runs and all configurations
    ours = np.asarray(compiled_logits(quantized, jnp.asarray(bits)[None], images)[0])
    theirs = rival.plain(pixels, bits.tolist()).numpy()
    eight = np.full_like(bits, 8)
    ours8 = np.asarray(compiled_logits(quantized, jnp.asarray(eight)[None], images)[0])
    theirs8 = rival.plain(pixels, eight.tolist()).numpy()
    median = {name: float(np.median(values)) for name, values in times.items()}
    finish(
        "candidate_speed",
        {
            "settings": {
                "images": IMAGES,
                "resolution": RESOLUTION,
                "points": int(bits.size),
                "rounds": ROUNDS,
                "seed": 0,
                "micro_batch": quantized.traced.micro_batch,
                "torch": torch.__version__,
                "torch_threads": threads,
                "torch_tuned": rival.settings._asdict(),
            },
            "ratio_vs_fp32": median["quantized"] / median["fp32"],
            "ratio_vs_torch": median["torch_quantized"] / median["quantized"],
            "fp32_ratio_vs_torch": median["torch_fp32"] / median["fp32"],
            "ratio_vs_torch_tuned": median["torch_tuned_quantized"] / median["quantized"],
            "fp32_ratio_vs_torch_tuned": median["torch_tuned_fp32"] / median["fp32"],
            "compiles": compiles,
            "configurations": CONFIGURATIONS,
            "median_s": median,
            "least_s": {name: float(values.min()) for name, values in times.items()},
            "same_top1_as_torch": {
                "random bits": float((ours.argmax(1) == theirs.argmax(1)).mean()),
                "8 bits": float((ours8.argmax(1) == theirs8.argmax(1)).mean()),
            },
        },
    )


def _best_threads(rival: torch_rival.EfficientNetLite0, pixels: torch.Tensor) -> int:
    """The number of PyTorch threads at which the plain rival is fastest here."""
    seconds = {}
    for threads in range(1, torch_rival.CORES + 1):
        torch.set_num_threads(threads)
        seconds[threads] = time_side_by_side({"plain": lambda: rival.plain(pixels)}, 1 if QUICK else 2)[
            "plain"
        ].min()
    return min(seconds, key=lambda threads: seconds[threads])


if __name__ == "__main__":
    main()
