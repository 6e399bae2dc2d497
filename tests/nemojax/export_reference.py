"""What the export tests share: networks of a few lines, and onnxruntime with or without optimizations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.batches import specs, standard
from nemojax.calibration import ROWS, QuantizerConfig, Ranges, weight_ranges
from nemojax.interpreter import fold
from nemojax.quantized import QuantizedNetwork
from nemojax.traced import Traced

CHEAP = QuantizerConfig()


def draw(seed, shape, scale=1.0):
    """Normal numbers, float32."""
    return np.float32(np.random.default_rng(seed).normal(size=shape) * scale)


def kernel(seed, *shape):
    """Normal weights whose products keep their size."""
    return draw(seed, shape, 1 / np.sqrt(np.prod(shape[:-1])))


def network(fn, params, inputs, config=CHEAP, seed=0) -> QuantizedNetwork:
    """`fn(params, inputs)`; ranges of its activations are drawn, so that little is compiled."""
    shapes = jax.eval_shape(lambda p: p, params)
    traced = Traced(fn, shapes, specs(standard(inputs)), config.quantize_pooled_input, "xla")
    folded = jax.jit(fold, static_argnums=0)(traced.workload(), params)
    rng, points = np.random.default_rng(seed), len(traced.workload().points)
    low = np.repeat(rng.choice([0.0, -0.7, -2.1, -3.3], points)[:, None], ROWS, axis=1)
    high = np.repeat(rng.uniform(1.0, 4.0, points)[:, None], ROWS, axis=1)
    ranges = Ranges(
        weight_ranges(traced, folded, config), *(jnp.asarray(end, jnp.float32) for end in (low, high))
    )
    return QuantizedNetwork(folded, ranges, traced, config, "net", "drawn")


def logits(net, bits, inputs):
    """Ours, compiled."""
    return np.asarray(jax.jit(QuantizedNetwork.quantized_logits)(net, jnp.asarray(bits, jnp.int32), inputs))


def feeds(net, inputs):
    """Inputs by the names that the file gives them."""
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    return {"/".join(str(k.key) for k in path) or "input": np.asarray(leaf) for path, leaf in leaves}


def saturates():
    """Whether onnxruntime's own integer kernels saturate here: an x86 CPU without VNNI."""
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "avx2" in (told := cpu.read_text()) and "vnni" not in told


def session(path, optimized, **entries):
    """An onnxruntime session on the CPU; `optimized` is the runtime's default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in entries.items():
        options.add_session_config_entry(name.replace("__", "."), value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, net, inputs, optimized=False, **entries):
    """The logits of a file."""
    return session(path, optimized, **entries).run(None, feeds(net, inputs))[0]


def difference(found, wanted):
    """The largest difference, as a share of the largest number."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-6))
