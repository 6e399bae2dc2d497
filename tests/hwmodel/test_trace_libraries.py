"""Flax linen and NNX, Equinox and plain functions of one network give one workload, and it runs again.

A convolution with batch norm and relu, a dense layer, an attention block with a residual add, a head.
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hwmodel import trace
from nemojax.interpreter import execute, fold

IMAGE = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32)
DIM, HEADS, CLASSES = 8, 2, 5


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(DIM, (3, 3))(x)))
        x = nn.Dense(DIM)(x.reshape(x.shape[0], -1, DIM))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(y)
        return nn.Dense(CLASSES)(jnp.mean(x, 1))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, DIM, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(DIM, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(DIM, DIM, rngs=rngs)
        self.norm = nnx.LayerNorm(DIM, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, DIM, decode=False, rngs=rngs)
        self.head = nnx.Linear(DIM, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.conv(x)))
        x = self.dense(x.reshape(x.shape[0], -1, DIM))
        x = x + self.attention(self.norm(x))
        return self.head(jnp.mean(x, 1))


class Equinox(eqx.Module):
    """Written for one image, channels first, as the library has it; no batch norm of inference alone."""

    conv: eqx.nn.Conv2d
    scale: jax.Array
    dense: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.conv = eqx.nn.Conv2d(3, DIM, 3, padding=1, key=keys[0])
        self.scale = jnp.ones((DIM, 1, 1))
        self.dense = eqx.nn.Linear(DIM, DIM, key=keys[1])
        self.norm = eqx.nn.LayerNorm(DIM)
        self.attention = eqx.nn.MultiheadAttention(
            HEADS,
            DIM,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=keys[2],
        )
        self.head = eqx.nn.Linear(DIM, CLASSES, key=keys[3])

    def __call__(self, x):
        x = jax.nn.relu(self.conv(x.transpose(2, 0, 1)) * self.scale)
        x = jax.vmap(self.dense)(x.reshape(DIM, -1).T)
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        return self.head(jnp.mean(x, 0))


def plain(p, x):
    def affine(x, name):
        return x @ p[name]["kernel"] + p[name]["bias"].reshape((1,) * (x.ndim - 1) + (-1,))

    c = {name: value[None, None, None] for name, value in p["conv"].items() if name != "kernel"}
    x = jax.lax.conv_general_dilated(
        x, p["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x * c["scale"] + c["bias"])
    x = affine(x.reshape(x.shape[0], -1, DIM), "dense")
    y = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * p["norm"]["scale"][None, None] + p["norm"]["bias"][None, None]
    q, k, v = (affine(y, name).reshape(*y.shape[:2], HEADS, -1) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(DIM / HEADS)))
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*y.shape[:2], DIM)
    return affine(jnp.mean(x + affine(y, "out"), 1), "head")


def linen():
    module = Linen()
    return module.apply, jax.eval_shape(module.init, jax.random.key(0), IMAGE)


def nnx_split():
    graph, state = nnx.split(nnx.eval_shape(lambda: NNX(nnx.Rngs(0))))
    return lambda state, x: nnx.merge(graph, state)(x), state


def equinox():
    arrays, rest = eqx.partition(Equinox(jax.random.key(0)), eqx.is_array)
    return lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x), arrays


def plain_function():
    shapes = {name: {"kernel": (DIM, DIM), "bias": (DIM,)} for name in ("dense", *"qkv", "out")}
    shapes["head"] = {"kernel": (DIM, CLASSES), "bias": (CLASSES,)}
    shapes["norm"] = {"scale": (DIM,), "bias": (DIM,)}
    shapes["conv"] = {"kernel": (3, 3, 3, DIM), "scale": (DIM,), "bias": (DIM,)}
    specs = {
        layer: {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}
        for layer, leaves in shapes.items()
    }
    return plain, specs


LIBRARIES = {"linen": linen, "nnx": nnx_split, "equinox": equinox, "plain": plain_function}
SEQUENCE = 36
MACS = [
    2 * 36 * 27 * DIM,  # convolution
    *[2 * SEQUENCE * DIM**2] * 4,  # dense, query, key, value
    *[2 * SEQUENCE**2 * DIM] * 2,  # the two products of attention
    2 * SEQUENCE * DIM**2,  # out
    2 * DIM * CLASSES,
]


@pytest.mark.parametrize("name", LIBRARIES)
def test_one_network_in_every_library(name):
    fn, params = LIBRARIES[name]()
    work = trace(fn, params, IMAGE)
    expected = [
        "conv",
        "dense",
        "norm",
        *["dense"] * 3,
        "matmul",
        "softmax",
        "matmul",
        "dense",
        "pool",
        "dense",
    ]
    ops = [op for op in work.operations if op.kind != "layout"]
    assert [op.kind for op in ops] == expected
    layouts = len(work.operations) - len(ops)
    assert layouts == (1 if name == "equinox" else 0)  # to channels first; the way back feeds a product
    assert [op.macs for op in ops if op.kind in ("conv", "dense", "matmul")] == MACS
    stored = [op for i, op in enumerate(work.operations) if op.w_id == i]
    assert sum(op.w_elems for op in stored) == 27 * DIM + 5 * DIM**2 + DIM * CLASSES
    # Under vmap the convolution's bias and scale are no affine steps, so both are counted beside the norm's.
    biases = (16 if name == "equinox" else 8) + 16 + 5 * 8 + CLASSES
    assert work.column("bias_elems").sum() == biases
    assert all(op.weight_point >= 0 for op in stored)
    assert [op.is_output for op in ops] == [False] * 11 + [True]
    residual = ops[9]
    assert len(residual.parents) == 2


@pytest.mark.parametrize("name", LIBRARIES)
def test_running_it_gives_the_function_back(name):
    fn, params = LIBRARIES[name]()
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values**2 + 0.5 if "var" in jax.tree_util.keystr(path) else values, jnp.float32)

    params = jax.tree_util.tree_map_with_path(draw, params)
    x = jnp.asarray(rng.normal(size=IMAGE.shape), jnp.float32)
    work = trace(fn, params, x)
    elems = [point.elems for point in work.points]

    def quantize(i, tensor):
        assert tensor.size == elems[i]
        return tensor

    @jax.jit
    def run(params, x):
        found = execute(work, fold(work, params), (x,), lowering="cpu", quantize=quantize)[0]
        return fn(params, x), found

    expected, found = run(params, x)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_names_come_from_the_parameters():
    names = {
        library: [op.name for op in trace(*make(), IMAGE).operations if op.w_elems]
        for library, make in LIBRARIES.items()
    }
    assert names["linen"][:3] == ["Conv_0", "Dense_0", "MultiHeadDotProductAttention_0/query"]
    assert names["nnx"] == [
        "conv",
        "dense",
        *[f"attention/{n}" for n in ("query", "key", "value", "out")],
        "head",
    ]
    assert names["equinox"][:3] == ["conv", "dense", "attention/query_proj"]
    assert names["plain"] == ["conv", "dense", "q", "k", "v", "out", "head"]


def test_an_equinox_module_is_split_first():
    with pytest.raises(ValueError, match=r"\.activation of argument 0 is a .*eqx.partition"):
        trace(
            lambda p, x: jax.vmap(p)(x),
            eqx.nn.MLP(3, 4, 5, 2, key=jax.random.key(0)),
            jax.ShapeDtypeStruct((2, 3), jnp.float32),
        )
