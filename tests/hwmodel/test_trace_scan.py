"""Scans of static length are unrolled: the same numbers, weights shared by all steps, longer ones refused."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace
from hwmodel.tracing.program import flatten

W = jax.random.normal(jax.random.key(0), (3, 3)) / 2
STACK = jax.random.normal(jax.random.key(1), (4, 3, 3)) / 2
X = jax.random.normal(jax.random.key(2), (5, 2, 3))  # (time, batch, features)


def run(program, params, *inputs):
    """Every equation as it stands."""
    env = dict(program.constants)
    env.update(zip(program.params, jax.tree.leaves(params), strict=True))
    env.update(zip(program.inputs, jax.tree.leaves(inputs), strict=True))
    for eqn in program.equations:
        env.update(zip(eqn.outputs, eqn.bind(*(env[v] for v in eqn.inputs)), strict=True))
    return [env[v] for v in program.outputs]


def recurrent(p, x):
    def step(h, row):
        h = jnp.tanh(row + h @ p)
        return h, h * 2.0

    return jax.lax.scan(step, jnp.zeros(x.shape[1:]), x)


def backwards(p, x):
    return jax.lax.scan(lambda h, row: (h @ p + row, (h, row @ p)), x[0], x, reverse=True)


def layers(p, x):
    return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x[0], p)[0]


def nested(p, x):
    def outer(h, w):
        return jax.lax.scan(lambda g, row: (g @ w + row, None), h, x)[0], h.sum(0)

    return jax.lax.scan(outer, x[0], p)


def loop(p, x):
    return jax.lax.fori_loop(0, 4, lambda i, h: h @ p + x[i], x[0])


def no_steps(p, x):
    h, ys = jax.lax.scan(lambda h, row: (h @ p, h), x[0] @ p, x[:0])
    return h + ys.sum(0)


FUNCTIONS = {recurrent: W, backwards: W, layers: STACK, nested: STACK, loop: W, no_steps: W}


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_unrolled_and_run_it_gives_the_same(fn):
    params = FUNCTIONS[fn]
    program = flatten(fn, params, X)
    assert "scan" not in {eqn.name for eqn in program.equations}
    expected = jax.tree.leaves(fn(params, X))
    for found, right in zip(jax.jit(lambda p, x: run(program, p, x))(params, X), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_steps_share_their_weights():
    """A bias and a product of weights inside the body: made, stored and counted once."""

    def fn(p, x):
        def step(h, row):
            return jnp.tanh(row + h @ (p["a"] @ p["b"]) + p["c"][None]), None

        return jax.lax.scan(step, x[0], x)[0]

    work = trace(fn, {"a": W, "b": W, "c": jnp.zeros(3)}, X)
    products = [op for op in work.operations if op.kind == "dense"]
    assert len(products) == 5
    assert len({op.w_id for op in products}) == 1
    assert len([p for p in work.points if p.is_weight]) == 1
    assert sum(op.bias_elems for op in work.operations) == 3
    assert sum(op.macs for op in products) == 5 * 2 * 3 * 3
    made = [eqn for eqn in work.program.equations if eqn.name == "dot_general"]
    assert len(made) == 5 + 1


def test_stacked_layers_have_weights_of_their_own():
    work = trace(layers, STACK, X)
    dense = [op for op in work.operations if op.kind == "dense"]
    assert [op.w_id for op in dense] == [work.operations.index(op) for op in dense]
    assert sum(op.w_elems for op in dense) == STACK.size
    assert [op.name for op in dense] == ["param", "param_2", "param_3", "param_4"]


def test_slices_of_the_input_read_a_part_of_it():
    work = trace(recurrent, W, X)
    slices = [op for op in work.operations if op.kind == "layout" and op.ext_in]
    assert [op.ext_in for op in slices] == [6] * 5
    stacked = work.operations[-1]
    assert (stacked.kind, len(stacked.parents), stacked.is_output) == ("layout", 5, True)


def test_a_longer_scan_is_refused_with_its_line_and_the_way_out():
    line = inspect.getsourcelines(recurrent)[1] + 5
    with pytest.raises(ValueError, match=f"'scan' at .*test_trace_scan.py:{line} has 5 steps.*unroll=4"):
        trace(recurrent, W, X, unroll=4)
    assert trace(recurrent, W, X, unroll=5).operations == trace(recurrent, W, X).operations


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match=r"'while' at .* is control flow"):
        trace(lambda p, x, n: jax.lax.fori_loop(0, n, lambda i, h: h @ p, x), W, X[0], jnp.int32(3))
