"""Whole networks of other people's shapes: operations, MACs and parameters against closed forms."""

import collections
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import Workload, trace


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def of_module(module, *inputs, **options) -> Workload:
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return trace(module.apply, params, *inputs, **options)


def kinds(work):
    return collections.Counter(op.kind for op in work.operations)


def contraction_macs(work):
    return sum(op.macs for op in work.operations if op.kind in ("conv", "dwconv", "dense", "matmul"))


def parameters(work):
    weights = sum(op.w_elems for i, op in enumerate(work.operations) if op.w_id == i)
    return weights + work.column("bias_elems").sum()


class Bottleneck(nn.Module):
    planes: int
    stride: int

    @nn.compact
    def __call__(self, x):
        def conv(x, channels, kernel, stride=1):
            pad = [(kernel // 2, kernel // 2)] * 2
            x = nn.Conv(channels, (kernel, kernel), (stride, stride), pad, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(x)

        y = nn.relu(conv(x, self.planes, 1))
        y = nn.relu(conv(y, self.planes, 3, self.stride))
        y = conv(y, 4 * self.planes, 1)
        if x.shape != y.shape:
            x = conv(x, 4 * self.planes, 1, self.stride)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """torchvision's: the stride on the 3x3; a softmax behind the classifier."""

    repeats: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), (2, 2), [(3, 3), (3, 3)], use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage, count in enumerate(self.repeats):
            for i in range(count):
                x = Bottleneck(64 * 2**stage, 2 if stage and i == 0 else 1)(x)
        return nn.softmax(nn.Dense(1000)(jnp.mean(x, (1, 2))))


RESNETS = {  # repeats: nodes, convolutions, weights, MACs of convolutions and classifier
    (3, 4, 6, 3): (57, 53, 25_502_912, 4_089_184_256),
    (3, 4, 23, 3): (108, 104, 44_442_816, 7_801_405_440),
}


@pytest.mark.parametrize("repeats", RESNETS)
def test_resnet_with_softmax(repeats):
    nodes, convolutions, weights, macs = RESNETS[repeats]
    image = shaped(1, 224, 224, 3)
    params = jax.eval_shape(ResNet(repeats).init, jax.random.key(0), image)
    start = time.process_time()
    work = trace(ResNet(repeats).apply, params, image)
    assert time.process_time() - start < 10  # well under a second on a free machine
    assert len(work.operations) == nodes
    assert kinds(work) == {"conv": convolutions, "pool": 2, "dense": 1, "softmax": 1}
    assert sum(op.w_elems for op in work.operations) == weights
    assert contraction_macs(work) == macs
    assert sum(len(op.parents) == 2 for op in work.operations) == sum(repeats)


class Encoder(nn.Module):
    hidden: int
    heads: int
    inner: int

    @nn.compact
    def __call__(self, x, mask):
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(self.heads)(x, x, mask=mask))
        y = nn.Dense(self.hidden)(nn.gelu(nn.Dense(self.inner)(x), approximate=False))
        return nn.LayerNorm()(x + y)


class Bert(nn.Module):
    layers: int = 12
    hidden: int = 768
    heads: int = 12
    inner: int = 3072

    @nn.compact
    def __call__(self, ids, types, mask):
        places = nn.Embed(512, self.hidden)(jnp.arange(ids.shape[1]))[None]
        x = nn.Embed(30_522, self.hidden)(ids) + nn.Embed(2, self.hidden)(types) + places
        x, seen = nn.LayerNorm()(x), (mask > 0)[:, None, None]
        for _ in range(self.layers):
            x = Encoder(self.hidden, self.heads, self.inner)(x, seen)
        return nn.tanh(nn.Dense(self.hidden)(x[:, 0]))


@pytest.mark.parametrize(("length", "encoder"), [(128, 11_173_625_856), (384, 35_332_816_896)])
def test_bert_base(length, encoder):
    ids = shaped(1, length, dtype=jnp.int32)
    start = time.process_time()
    work = of_module(Bert(), ids, ids, ids)
    assert time.process_time() - start < 15
    h, f = 768, 3072
    assert encoder == 12 * (4 * length * h * h + 2 * length * h * f + 2 * length**2 * h)
    assert contraction_macs(work) == encoder + h * h  # and the pooler
    # a layer: query, key, value, out and two dense layers; two products; softmax; two norms
    assert kinds(work) == {
        "dense": 12 * 6 + 1,
        "matmul": 12 * 2,
        "softmax": 12,
        "norm": 12 * 2 + 1,
        "gather": 2,
        "act": 1,  # of the mask
        "layout": 1,  # the first token
    }
    unread = (512 - length) * h  # the table of places is constant, so only what is read is stored
    assert parameters(work) == 109_482_240 - unread
    assert [(op.w_elems, op.w_reads) for op in work.operations if op.kind == "gather"] == [
        (30_522 * h, length * h),
        (2 * h, min(2, length) * h),
    ]
    scores = next(op for op in work.operations if op.kind == "matmul")
    assert (scores.batch, scores.ofm, len(scores.parents)) == (12, (length, 1, length), 3)


def test_bert_without_fusion_has_the_same_products_and_parameters():
    ids = shaped(2, 16, dtype=jnp.int32)
    module = Bert(layers=2, hidden=32, heads=4, inner=64)
    fused, apart = (of_module(module, ids, ids, ids, fusion=f) for f in ("all", "none"))
    assert contraction_macs(fused) == contraction_macs(apart)
    assert parameters(fused) == parameters(apart)
    assert len(apart.operations) > 3 * len(fused.operations)
    program = apart.program
    for op in apart.operations:
        real = [i for i in op.equations if program.equations[i].name != "stop_gradient"]
        assert len(real) == 1 or op.kind == "gather"


class ViT(nn.Module):
    """A patch embedding, a class token, one pre-norm block and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(48, (8, 8), (8, 8), "VALID")(x)
        x = x.reshape(x.shape[0], -1, 48)
        token = self.param("token", nn.initializers.zeros, (1, 1, 48))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 48)), x], 1)
        x = x + self.param("places", nn.initializers.zeros, (1, x.shape[1], 48))
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(96)(nn.LayerNorm()(x)))
        x = x + nn.Dense(48)(y)
        return nn.Dense(10)(nn.LayerNorm()(x)[:, 0])


def test_vision_transformer_block():
    work = of_module(ViT(), shaped(2, 32, 32, 3))
    n, d = 17, 48
    macs = 16 * 192 * d + 4 * n * d * d + 2 * n * n * d + 2 * n * d * 96 + d * 10
    assert contraction_macs(work) == 2 * macs
    kernels = 192 * d + 4 * d * d + 2 * d * 96 + d * 10
    others = d + d + n * d + 3 * 2 * d + 4 * d + 96 + d + 10  # biases, token, places, norms
    assert parameters(work) == kernels + others
    assert [op.kind for op in work.operations] == [
        *(
            "conv",
            "layout",
            "norm",
            "norm",
            "dense",
            "dense",
            "dense",
            "matmul",
            "softmax",
            "matmul",
            "dense",
        ),
        *("norm", "dense", "dense", "norm", "layout", "dense"),
    ]


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        a = nn.silu(nn.GroupNorm(2)(nn.Conv(8, (3, 3))(x)))
        b = nn.silu(nn.Conv(16, (3, 3))(nn.max_pool(a, (2, 2), (2, 2))))
        up = nn.ConvTranspose(8, (2, 2), (2, 2))(b)
        return nn.Conv(3, (1, 1))(jnp.concatenate([a, up], -1))


def test_unet_block():
    work = of_module(UNet(), shaped(1, 16, 16, 3))
    names = [op.name for op in work.operations]
    assert names == ["Conv_0", "norm", "pool", "Conv_1", "ConvTranspose_0", "layout", "Conv_2"]
    assert [op.macs for op in work.operations if op.kind == "conv"] == [
        256 * 27 * 8,
        64 * 72 * 16,
        64 * 16 * 8 * 4,  # input elements times outputs times taps: no product with an inserted zero
        256 * 16 * 3,
    ]
    skip = work.operations[5]
    assert [names[edge.producer] for edge in skip.parents] == ["norm", "ConvTranspose_0"]


def test_lstm_over_a_sequence():
    steps, batch, inputs, hidden = 7, 2, 5, 8
    module = nn.RNN(nn.OptimizedLSTMCell(hidden))
    work = of_module(module, shaped(batch, steps, inputs))
    macs = batch * 4 * hidden * (inputs + hidden)
    state = batch * 4 * hidden * hidden  # the first state is zero, so its product is a constant
    assert contraction_macs(work) == steps * macs - state
    constant = batch * 4 * hidden  # what the first step adds in its place
    assert parameters(work) == 4 * hidden * (inputs + hidden) + 4 * hidden + constant
    assert len({op.w_id for op in work.operations if op.w_elems}) == 2


class SqueezeExcite(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.hard_swish(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3), use_bias=False)(x)))
        gate = nn.relu(nn.Dense(2)(jnp.mean(y, (1, 2))))
        gate = nn.hard_sigmoid(nn.Dense(8)(gate))
        return nn.Conv(8, (1, 1))(y * gate[:, None, None])


def test_squeeze_and_excite_block():
    work = of_module(SqueezeExcite(), shaped(2, 8, 8, 3))
    names = [op.name for op in work.operations]
    assert names == ["Conv_0", "pool", "Dense_0", "Dense_1", "other", "Conv_1"]
    gating = work.operations[4]
    assert [work.operations[edge.producer].kind for edge in gating.parents] == ["conv", "dense"]
    assert [edge.elems for edge in gating.parents] == [2 * 64 * 8, 2 * 8]
    assert contraction_macs(work) == 2 * (64 * 27 * 8 + 16 + 16 + 64 * 64)


def gated(p, x):
    h = jax.nn.silu(x @ p["gate"]) * (x @ p["up"])
    return x + h @ p["down"]


def attention(p, x):
    q, k, v = (jnp.einsum("bsd,dhk->bshk", x, p[name]) for name in "qkv")
    return jnp.einsum("bshk,hkd->bsd", jax.nn.dot_product_attention(q, k, v, is_causal=True), p["o"])


FUNCTIONS = {
    "gated": (gated, {"gate": (64, 96), "up": (64, 96), "down": (96, 64)}, ["dense", "dense", "dense"]),
    "attention": (
        attention,
        {"q": (64, 4, 16), "k": (64, 4, 16), "v": (64, 4, 16), "o": (4, 16, 64)},
        ["dense", "dense", "dense", "matmul", "softmax", "matmul", "dense"],
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_macs_against_the_compiler_s_own_count(name):
    """XLA counts two operations a multiply-accumulate, and one or so an element of the rest."""
    fn, shapes, expected = FUNCTIONS[name]
    params, x = {k: shaped(*shape) for k, shape in shapes.items()}, shaped(2, 40, 64)
    work = trace(fn, params, x)
    assert [op.kind for op in work.operations] == expected
    flops = jax.jit(fn).lower(params, x).cost_analysis()["flops"]
    elements = sum(
        np.prod(v.shape) for eqn in jax.make_jaxpr(fn)(params, x).jaxpr.eqns for v in [eqn.outvars[0].aval]
    )
    assert 2 * contraction_macs(work) <= flops <= 2 * contraction_macs(work) + 5 * elements
