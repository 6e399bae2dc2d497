"""Random networks of all pieces: any fusion counts the same, and running one gives the function back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace
from hwmodel.tracing.primitives import VIEWS
from hwmodel.tracing.trace import PASSES
from nemojax.interpreter import execute, fold

BATCH, LENGTH, WIDTH = 2, 6, 4


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1)


def attention(q, k):
    scores = jnp.einsum("bqd,bkd->bqk", q, k) / 2.0
    return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores), k)


def scanned(x):
    return jax.lax.scan(lambda h, row: (jnp.tanh(h + row), h), x[0], x)[1]


# Pieces (batch, length, width) -> the same; those of two take an earlier value as the second.
ONE = [
    jnp.tanh,
    jax.nn.gelu,
    jax.nn.silu,
    jax.nn.elu,
    jax.nn.softmax,
    normed,
    scanned,
    lambda x: jax.nn.log_softmax(x, axis=1),
    lambda x: x * x * 0.1,
    lambda x: x[:, ::-1],
    lambda x: jnp.concatenate([x[:, 3:], x[:, :3]], 1),
    lambda x: x.transpose(1, 0, 2).transpose(0, 1, 2).transpose(1, 0, 2),
    lambda x: x.transpose(0, 2, 1).reshape(BATCH, LENGTH, WIDTH),
    lambda x: x + jnp.mean(x, 1, keepdims=True),
    lambda x: x * jax.nn.sigmoid(jnp.mean(x, (1, 2)))[:, None, None],
    lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), 1) + x,
    lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], -1),
    lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 1), (1, 1, 1), "SAME"),
]
TWO = [
    lambda x, y: x + y,
    lambda x, y: x * jnp.tanh(y),
    jnp.maximum,
    attention,
    lambda x, y: jnp.where(x > 0, x, y),
    lambda x, y: jnp.where(jnp.mean(y, 1, keepdims=True) > 0, jnp.tanh(x), 0.5),
    lambda x, y: jnp.where((y > 0) & (x < 1), x, -1.0),
    lambda x, y: jnp.concatenate([x, y], 1)[:, ::2],
]
# Pieces with a kernel (width, width), and the multiply-accumulates of each.
WEIGHTED = [
    (lambda x, w: x @ w, BATCH * LENGTH * WIDTH**2),
    (lambda x, w: jnp.einsum("oi,bti->bto", w, x), BATCH * LENGTH * WIDTH**2),
    (lambda x, w: jax.vmap(jax.vmap(lambda row: w @ row))(x), BATCH * LENGTH * WIDTH**2),
    (lambda x, w: (x @ w) * w[0][None, None] + w[1][None, None], BATCH * LENGTH * WIDTH**2),
    (
        lambda x, w: jax.lax.conv_general_dilated(
            x, w[:, None], (1,), [(2, 1)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=WIDTH
        ),
        BATCH * LENGTH * WIDTH * WIDTH,  # depthwise, 4 taps
    ),
]


def draw(seed):
    """(function, kernels, images, multiply-accumulates of the products)."""
    rng = np.random.default_rng(seed)
    steps, macs, seen = [], 0, 1
    for _ in range(int(rng.integers(5, 10))):
        group = rng.choice(["one", "two", "weighted"], p=[0.4, 0.25, 0.35])
        piece = int(rng.integers(len({"one": ONE, "two": TWO, "weighted": WEIGHTED}[group])))
        steps.append((group, piece, int(rng.integers(seen))))
        if group == "weighted":
            macs += WEIGHTED[piece][1]
        if group == "two" and TWO[piece] is attention:
            macs += 2 * BATCH * LENGTH**2 * WIDTH
        seen += 1
    kernels = [
        jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / 2, jnp.float32)
        for group, *_ in steps
        if group == "weighted"
    ]

    def fn(kernels, x):
        values, left = [x], list(kernels)
        for group, piece, earlier in steps:
            last = values[-1]
            if group == "one":
                values.append(ONE[piece](last))
            elif group == "two":
                values.append(TWO[piece](last, values[earlier]))
            else:
                values.append(WEIGHTED[piece][0](last, left.pop(0)))
        return values[-1], values[len(values) // 2]

    return fn, kernels, jnp.asarray(rng.normal(size=(BATCH, LENGTH, WIDTH)), jnp.float32), macs


def works(seed):
    fn, kernels, x, macs = draw(seed)
    rng = np.random.default_rng(seed)
    some = tuple(np.array(PASSES)[rng.random(len(PASSES)) < 0.5].tolist())
    return fn, kernels, x, macs, [trace(fn, kernels, x, fusion=f) for f in ("all", "none", some)]


@pytest.mark.parametrize("seed", range(40))
def test_the_structure_is_sound_under_any_fusion(seed):
    *_, macs, traced = works(seed)
    for work in traced:
        program = work.program
        assert (
            sum(op.macs for op in work.operations if op.kind in ("conv", "dwconv", "dense", "matmul")) == macs
        )
        joined = [i for op in work.operations for i in op.equations]
        assert len(set(joined)) == len(joined)  # an equation belongs to one operation
        home = {i: n for n, op in enumerate(work.operations) for i in op.equations}
        for n, op in enumerate(work.operations):
            for i in op.equations[:-1]:  # what an operation makes on the way stays inside
                for value in program.equations[i].outputs:
                    assert value not in program.outputs
                    assert within(program, home, value, n)
            sources = {
                where_from(program, home, v) for i in op.equations for v in program.equations[i].inputs
            }
            assert {e.producer for e in op.parents} == sources - {n, "weight", "input"}
            assert (op.ext_in > 0) == ("input" in sources)
        alone = {
            eqn.name
            for i, eqn in enumerate(program.equations)
            if i not in home and not program.is_weight(eqn.outputs[0])
        }
        assert alone <= VIEWS | {"transpose"}
        assert any(op.is_output for op in work.operations) or not work.operations
    fused, apart, some = (len(work.operations) for work in traced)
    assert fused <= some <= apart
    weights = [sum(op.w_elems for i, op in enumerate(w.operations) if op.w_id == i) for w in traced]
    assert len(set(weights)) == 1


def where_from(program, home, value):
    """The operation that makes a value, through views; or that it is a weight or a graph input."""
    while not program.is_weight(value):
        if value not in program.producer:
            return "input"
        i = program.producer[value]
        if i in home:
            return home[i]
        value = program.equations[i].inputs[0]
    return "weight"


def within(program, home, value, n):
    """Whether all readers of a value, through views, belong to operation n."""
    for i in program.consumers.get(value, ()):
        if i in home:
            if home[i] != n:
                return False
        elif not all(within(program, home, out, n) for out in program.equations[i].outputs):
            return False
    return True


@pytest.mark.parametrize("seed", range(8))
def test_running_it_gives_the_function_back(seed):
    fn, kernels, x, _, traced = works(seed)

    @jax.jit
    def run(kernels, x):
        found = [
            execute(work, fold(work, kernels), (x,), lowering="cpu", quantize=lambda i, tensor: tensor)
            for work in traced
        ]
        return fn(kernels, x), found

    expected, found = run(kernels, x)
    for outputs in found:
        for output, right in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, right, atol=2e-5 * max(1.0, np.abs(right).max()))
