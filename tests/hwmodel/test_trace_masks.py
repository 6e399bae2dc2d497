"""No quantizer stands behind a mask: what it hides would take the whole range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace

Q = jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)
MASK = jax.ShapeDtypeStruct((2, 5), jnp.int32)
CAUSAL = np.tril(np.ones((5, 5), bool))


def attention(hide):
    def fn(p, q, mask):
        scores = jnp.einsum("bqd,bkd->bqk", q @ p, q)
        return jax.nn.softmax(hide(scores, mask)) @ q

    return trace(fn, jax.ShapeDtypeStruct((4, 4), jnp.float32), Q, MASK)


HIDING = {
    "where": lambda s, m: jnp.where((m > 0)[:, None], s, jnp.finfo(jnp.float32).min),
    "where, kept by not": lambda s, m: jnp.where(~(m > 0)[:, None], -1e9, s),
    "added": lambda s, m: s + (1 - m[:, None].astype(jnp.float32)) * -1e9,
    "subtracted": lambda s, m: s - (1 - m[:, None].astype(jnp.float32)) * 1e9,
    "causal": lambda s, m: jnp.where(CAUSAL[None], s, -1e9),
    "causal and where": lambda s, m: jnp.where(CAUSAL[None] & (m > 0)[:, None], s, -1e9),
}


@pytest.mark.parametrize("how", HIDING)
def test_the_scores_are_quantized_before_they_are_masked(how):
    work = attention(HIDING[how])
    scores = next(op for op in work.operations if op.kind == "matmul")
    softmax = next(op for op in work.operations if op.kind == "softmax")
    behind = [p for p in work.points if work.operations[p.operation].name == scores.name]
    assert [p.source for p in behind] == ["linear"]
    assert work.program.equations[scores.equations[0]].outputs[0] == behind[0].value
    assert work.points[softmax.input_point] == behind[0]  # what feeds the softmax, by the mask


def test_what_is_no_mask_keeps_its_quantizer():
    def fn(p, x, ids):
        y = x @ p
        positions = jnp.sin(ids[..., None].astype(jnp.float32) * jnp.ones((1, 1, 4)))
        y = y + positions  # of an encoding
        return jnp.where(y > 1, 1.0, y) @ p  # the data's own reals decide

    work = trace(fn, jax.ShapeDtypeStruct((4, 4), jnp.float32), Q, MASK)
    product = work.operations[-1]
    assert work.points[product.input_point].source == "activation"  # behind the second where
    values = [p.value for p in work.points if p.operation == product.parents[0].producer]
    assert len(set(values)) == 2  # the sum, and what where makes of it
