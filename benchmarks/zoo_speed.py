"""Every network of the zoo against PyTorch on the same machine: full precision, and one candidate.

The same drawn weights on both sides (a state dict of PyTorch, read by our reader), so that the outputs can
be compared before anything is timed. Inputs are drawn: 8 images at the network's resolution, 64 of the two
small networks for 32x32, 8 rows of 128 tokens for the encoders, whose masks hide nothing (PyTorch's have
none). A candidate has every point at 2-8 random bits, its weights rounded anew. PyTorch runs channels-last,
batch norms folded, in full precision with its fused attention, in inference mode, on the threads and with
the rows at a time that are fastest here:
  torch           eager fake quantizers, PyTorch's own operator, as existing tools insert them
  torch_in_place  the same with clamp and round written out in place, which eager mode runs faster
Ratios are of medians, PyTorch's time over ours; runs take turns.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

import nemojax as nemo
from nemojax.quantized import compiled_logits

from . import zoo_torch
from .common import QUICK, finish, say, time_side_by_side
from .torch_rival import CORES
from .zoo_rival import Rival, Rounding

NETWORKS = {  # name -> (resolution or tokens, images or rows)
    "mobilenet_v2": (224, 8),
    "efficientnet_lite0": (224, 8),
    "efficientnet_lite1": (240, 8),
    "efficientnet_lite2": (260, 8),
    "resnet50": (224, 8),
    "resnet101": (224, 8),
    "resnext101_32x8d": (224, 8),
    "mobilenet_v2_cifar": (32, 64),
    "resnet20_cifar": (32, 64),
    "resnext29_cifar": (32, 8),
    "bert_base": (128, 8),
    "minilm_l6": (128, 8),
}
SHORT = ("efficientnet_lite0", "resnet20_cifar", "minilm_l6")
ROUNDS = 3 if QUICK else 9
THREADS = sorted({1, CORES})


class Case(NamedTuple):
    """The same network and inputs on both sides."""

    network: nemo.networks.Network
    inputs: Any
    model: torch.nn.Module
    tensor: torch.Tensor


@jax.jit
def full_precision(network: nemo.QuantizedNetwork, inputs: Any) -> jax.Array:
    return network.logits(inputs)


def prepare(name: str, size: int, count: int) -> Case:
    """Weights and inputs, drawn from seed 0."""
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {}
    if name in ("bert_base", "minilm_l6"):
        model, options["output"] = zoo_torch.encoder(name, size), "sequence"
        ids = rng.integers(0, 30_522, (count, size))
        inputs: Any = {"ids": jnp.asarray(ids, jnp.int32), "mask": jnp.ones((count, size), jnp.int32)}
        tensor = torch.from_numpy(ids)
    else:
        model, options["resolution"] = zoo_torch.convolutional(name, size), size
        inputs = jnp.asarray(rng.normal(size=(count, size, size, 3)), jnp.float32)
        tensor = torch.from_numpy(np.array(inputs)).permute(0, 3, 1, 2)
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.pth")
        torch.save(zoo_torch.state(model), file)
        return Case(nemo.networks.by_name(name, file, **options), inputs, model, tensor)


def measure(name: str, size: int, count: int) -> dict[str, Any]:
    """Seconds and ratios of one network."""
    network, inputs, model, tensor = prepare(name, size, count)
    few = jax.tree.map(lambda leaf: leaf[:4], inputs)
    quantized = nemo.quantize(network, few, nemo.QuantizerConfig(activation_range="minmax"))
    with torch.inference_mode():
        expected = model(tensor).numpy()
    difference = _relative(np.asarray(full_precision(quantized, inputs)), expected)
    if difference > 1e-4:
        raise SystemExit(f"{name}: outputs differ by {difference:.1e} of the largest: not the same network")
    rival = Rival(model)
    rival.calibrate(tensor[:4])
    points = quantized.workload.points
    weights = [i for i, point in enumerate(points) if point.is_weight]
    others = [i for i, point in enumerate(points) if not point.is_weight]
    if (len(weights), len(others)) != (len(rival.weights), len(rival.quantizers)):
        raise SystemExit(f"{name}: {len(points)} quantizers here, {len(rival.quantizers)} activations there")
    drawn = np.asarray(nemo.search_space(quantized).sample(jax.random.key(1), 1000))
    candidates, theirs = iter(drawn), iter(drawn)

    def candidate(how: Rounding, chunk: int) -> torch.Tensor:
        row = next(theirs)
        return rival.candidate(row[weights].tolist(), row[others].tolist(), tensor, chunk, how)

    def exact(chunk: int) -> torch.Tensor:
        return rival.full_precision(tensor, chunk)

    threads, chunks = _best(candidate, exact, count)
    torch.set_num_threads(threads)
    runs = {
        "fp32": lambda: full_precision(quantized, inputs),
        "candidate": lambda: compiled_logits(quantized, jnp.asarray(next(candidates))[None], inputs),
        "torch_fp32": lambda: exact(chunks["fp32"]),
        "torch": lambda: candidate("operator", chunks["operator"]),
        "torch_in_place": lambda: candidate("in place", chunks["in place"]),
    }
    times = time_side_by_side(runs, ROUNDS)
    median = {run: float(np.median(seconds)) for run, seconds in times.items()}
    return {
        "resolution_or_tokens": size,
        "images_or_rows": count,
        "quantizers": len(points),
        "difference_of_outputs": difference,
        "threads_of_torch": threads,
        "rows_at_a_time_of_torch": chunks,
        "median_s": median,
        "candidate_ratio_vs_torch": median["torch"] / median["candidate"],
        "candidate_ratio_vs_torch_in_place": median["torch_in_place"] / median["candidate"],
        "forward_ratio_vs_torch": median["torch_fp32"] / median["fp32"],
        "compiles": len(quantized.traced.compilations),
    }


def _best(candidate: Any, exact: Any, count: int) -> tuple[int, dict[str, int]]:
    """PyTorch's fastest number of threads, and of images at a time for each of its runs."""
    sizes = [size for size in (1, 2, 4, 8, 16, 64) if size <= count][-1 if QUICK else -3 :]
    found: dict[int, tuple[float, dict[str, int]]] = {}
    for threads in THREADS[-1:] if QUICK else THREADS:
        torch.set_num_threads(threads)
        times = time_side_by_side(dict(_trials(candidate, exact, sizes)), 1 if QUICK else 2)
        chosen = {
            run: min(sizes, key=lambda size, run=run: times[f"{run} {size}"].min())
            for run in ("fp32", "operator", "in place")
        }
        found[threads] = sum(times[f"{run} {size}"].min() for run, size in chosen.items()), chosen
    threads = min(found, key=lambda threads: found[threads][0])
    return threads, found[threads][1]


def _trials(candidate: Any, exact: Any, sizes: list[int]) -> Iterator[tuple[str, Any]]:
    for size in sizes:
        yield f"fp32 {size}", lambda size=size: exact(size)
        yield f"operator {size}", lambda size=size: candidate("operator", size)
        yield f"in place {size}", lambda size=size: candidate("in place", size)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> None:
    rows = {}
    for name in SHORT if QUICK else NETWORKS:
        rows[name] = measure(name, *NETWORKS[name])
        row = rows[name]
        say(
            f"{name}: candidate {row['candidate_ratio_vs_torch']:.2f} of torch "
            f"({row['candidate_ratio_vs_torch_in_place']:.2f} in place), "
            f"forward {row['forward_ratio_vs_torch']:.2f}"
        )
        jax.clear_caches()
    finish(
        "zoo_speed",
        {
            "settings": {"rounds": ROUNDS, "seed": 0, "torch": torch.__version__, "lowering": "cpu"},
            "networks": rows,
            "min_candidate_ratio_vs_torch": min(row["candidate_ratio_vs_torch"] for row in rows.values()),
            "min_candidate_ratio_vs_torch_in_place": min(
                row["candidate_ratio_vs_torch_in_place"] for row in rows.values()
            ),
            "min_forward_ratio_vs_torch": min(row["forward_ratio_vs_torch"] for row in rows.values()),
        },
    )


if __name__ == "__main__":
    main()
