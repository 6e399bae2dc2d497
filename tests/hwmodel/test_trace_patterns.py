"""Softmax, normalization and activation functions as a whole; what leaks out of a pattern undoes it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from hwmodel import trace

X = jax.ShapeDtypeStruct((2, 6, 8), jnp.float32)
MATRIX = jax.ShapeDtypeStruct((8, 8), jnp.float32)
VECTOR = jax.ShapeDtypeStruct((8,), jnp.float32)


def kinds(fn, *args, **options):
    return [op.kind for op in trace(fn, *args, **options).operations]


ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "hard swish": jax.nn.hard_swish,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "mish": jax.nn.mish,
    "leaky relu": jax.nn.leaky_relu,
    "soft sign": jax.nn.soft_sign,
    "log sigmoid": jax.nn.log_sigmoid,
    "square": lambda x: x * x,
    "written out": lambda x: x * (x > 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_function_joins_its_only_producer(name):
    def fn(p, x):
        return ACTIVATIONS[name](x @ p) @ p

    with jax.numpy_dtype_promotion("standard"):
        work = trace(fn, MATRIX, X)
        assert [op.kind for op in work.operations] == ["dense", "dense"]
        assert [point.source for point in work.points] == ["input", "weight", "activation"]
        assert kinds(lambda p, x: ACTIVATIONS[name](x), (), X) == ["act"]
        assert len(kinds(fn, MATRIX, X, fusion="none")) > 2


@pytest.mark.parametrize("name", ["gelu", "elu", "silu"])
def test_it_stands_alone_behind_a_value_that_others_read(name):
    def fn(p, x):
        y = x @ p
        return ACTIVATIONS[name](y) @ p, y

    work = trace(fn, MATRIX, X)
    assert [op.kind for op in work.operations] == ["dense", "act", "dense"]
    assert [len(op.parents) for op in work.operations] == [0, 1, 1]
    assert work.operations[1].macs == 2 * 6 * 8


def test_what_is_read_inside_a_pattern_undoes_it():
    def fn(p, x):
        y = x @ p
        gate = jax.nn.sigmoid(y)
        return y * gate, gate

    work = trace(fn, MATRIX, X)
    assert [op.kind for op in work.operations] == ["dense", "act", "other"]
    assert [op.is_output for op in work.operations] == [False, True, True]


def unsafe_softmax(x):
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


SOFTMAX = {
    "jax.nn": jax.nn.softmax,
    "another axis": lambda x: jax.nn.softmax(x, axis=1),
    "over two axes": lambda x: jax.nn.softmax(x, axis=(1, 2)),
    "log": jax.nn.log_softmax,
    "without max": unsafe_softmax,
    "half precision in between": lambda x: jax.nn.softmax(x.astype(jnp.bfloat16)).astype(jnp.float32),
    "reciprocal": lambda x: (lambda e: e * (1.0 / e.sum(-1, keepdims=True)))(jnp.exp(x)),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_is_one_operation(name):
    work = trace(lambda p, x: SOFTMAX[name](x @ p) @ p, MATRIX, X)
    assert [op.kind for op in work.operations] == ["dense", "softmax", "dense"]
    softmax = work.operations[1]
    assert (softmax.macs, softmax.o_elems, softmax.ofm) == (96, 96, (6, 1, 8))
    assert [edge.producer for edge in softmax.parents] == [0]
    assert "softmax" not in kinds(lambda p, x: SOFTMAX[name](x @ p), MATRIX, X, fusion=("affine", "norm"))


def normed(module):
    params = jax.eval_shape(module.init, jax.random.key(0), X)
    return lambda p, x: module.apply(p["norm"], x @ p["w"]) @ p["w"], {"norm": params, "w": MATRIX}


def plain_layer_norm(p, x):
    y = x @ p["w"]
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return (y * p["scale"][None, None] + p["shift"][None, None]) @ p["w"]


def centred_first(p, x):
    y = x @ p["w"]
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5) * p["scale"][None, None]) @ p["w"]


NORMS = {  # function, parameters: vectors of 8 that it stores
    "layer": (*normed(nn.LayerNorm()), 2),
    "two-pass variance": (*normed(nn.LayerNorm(use_fast_variance=False)), 2),
    "rms": (*normed(nn.RMSNorm()), 1),
    "group": (*normed(nn.GroupNorm(num_groups=2)), 2),
    "instance": (*normed(nn.InstanceNorm()), 2),
    "plain": (plain_layer_norm, {"w": MATRIX, "scale": VECTOR, "shift": VECTOR}, 2),
    "centred first": (centred_first, {"w": MATRIX, "scale": VECTOR}, 1),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_normalization_is_one_operation(name):
    fn, params, vectors = NORMS[name]
    work = trace(fn, params, X)
    assert [op.kind for op in work.operations] == ["dense", "norm", "dense"]
    norm = work.operations[1]
    assert (norm.macs, norm.o_elems, norm.w_elems, norm.bias_elems) == (96, 96, 0, 8 * vectors)
    assert [edge.producer for edge in norm.parents] == [0]
    spread = trace(fn, params, X, fusion=("affine", "activation"))
    assert len(spread.operations) > 4
    assert sum(op.bias_elems for op in spread.operations) == 8 * vectors


def test_batch_statistics_that_are_returned_keep_their_operations():
    module = nn.BatchNorm(use_running_average=False)
    variables = jax.eval_shape(module.init, jax.random.key(0), X)
    work = trace(lambda p, x: module.apply(p, x, mutable=["batch_stats"]), variables, X)
    assert [op.kind for op in work.operations].count("pool") == 2
    assert sum(op.is_output for op in work.operations) == 3


def test_a_mask_joins_the_scores():
    def constant(q, k):
        scores = jnp.einsum("bqd,bkd->bqk", q, k)
        return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((6, 6), bool))[None], scores, -1e9))

    def computed(q, k, mask):
        scores = jnp.einsum("bqd,bkd->bqk", q, k)
        return jax.nn.softmax(jnp.where((mask > 0)[:, None], scores, -1e9))

    ids = jax.ShapeDtypeStruct((2, 6), jnp.int32)
    assert kinds(constant, X, X, params=()) == ["matmul", "softmax"]
    work = trace(computed, X, X, ids, params=())
    assert [op.kind for op in work.operations] == ["matmul", "softmax"]
    assert [op.bias_elems for op in work.operations] == [0, 0]  # constants are not stored
    assert work.operations[0].ext_in == 96 + 96 + 12
    assert kinds(computed, X, X, ids, params=(), fusion="none")[:3] == ["matmul", "act", "other"]


def test_a_mask_that_several_read_is_an_operation():
    def fn(q, k, mask):
        seen = (mask > 0)[:, None]
        first = jnp.where(seen, jnp.einsum("bqd,bkd->bqk", q, k), -1e9)
        return first, jnp.where(seen, jnp.einsum("bqd,bkd->bqk", k, q), -1e9)

    work = trace(fn, X, X, jax.ShapeDtypeStruct((2, 6), jnp.int32), params=())
    assert [op.kind for op in work.operations] == ["act", "matmul", "matmul"]
    assert [[e.producer for e in op.parents] for op in work.operations] == [[], [0], [0]]


def test_a_mask_of_what_comes_later_does_not_join_what_came_before():
    def fn(p, x):
        early = x @ p[0]
        late = x @ p[1]
        return jnp.where(late > 0, early, 0.0), late

    work = trace(fn, [MATRIX, MATRIX], X)
    assert [op.kind for op in work.operations] == ["dense", "dense", "act", "other"]
    assert {edge.producer for edge in work.operations[3].parents} == {0, 2}
