"""Size and bit-operations against sums written out by hand."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import Workload, bit_operations_ratio, model_ratio, trace


def conv(x, w, groups=1):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def three_layers(p, x):
    x = jax.nn.relu(conv(x, p["a"]) + p["bias"][None, None, None])
    x = jax.nn.relu(conv(x, p["b"], groups=8))
    return jnp.mean(x, (1, 2)) @ p["fc"] + p["fc_bias"][None]


PARAMS = {"a": (3, 3, 4, 8), "b": (3, 3, 1, 8), "fc": (8, 5), "bias": (8,), "fc_bias": (5,)}
WEIGHTS, MACS = (288, 72, 40), (36 * 288, 36 * 72, 40)  # a 6x6 image: 36 positions
POINTS = (
    "input",
    "a.weight",
    "a.activation",
    "b.weight",
    "b.activation",
    "pool.pool",
    "fc.weight",
)


@pytest.fixture(scope="module")
def work() -> Workload:
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in PARAMS.items()}
    return trace(three_layers, shapes, jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32))


def bits_of(work: Workload, **widths: int) -> jax.Array:
    return jnp.asarray([widths[name.replace(".", "_")] for name in work.point_names], jnp.int32)


def test_three_layers_by_hand(work):
    assert work.point_names == POINTS
    assert [op.macs for op in work.operations if op.w_elems] == list(MACS)
    bits = bits_of(
        work, input=8, a_weight=3, a_activation=5, b_weight=6, b_activation=2, pool_pool=4, fc_weight=7
    )
    weights, inputs = (3, 6, 7), (8, 5, 4)  # the classifier is fed by the pooling
    stored = sum(n * b for n, b in zip(WEIGHTS, weights, strict=True)) + 32 * (8 + 5)
    assert model_ratio(work, bits) == pytest.approx(stored / (32 * (400 + 13)), rel=1e-6)
    wide = sum(m * max(w, a) for m, w, a in zip(MACS, weights, inputs, strict=True))
    assert bit_operations_ratio(work, bits) == pytest.approx(wide / (32 * sum(MACS)), rel=1e-6)
    product = sum(m * w * a for m, w, a in zip(MACS, weights, inputs, strict=True))
    assert bit_operations_ratio(work, bits, "product") == pytest.approx(
        product / (1024 * sum(MACS)), rel=1e-6
    )


@pytest.mark.parametrize("width", [2, 3, 4, 8, 16, 32])
def test_uniform_widths(work, width):
    bits = jnp.full(len(work.points), width, jnp.int32)
    assert bit_operations_ratio(work, bits, "max") == pytest.approx(width / 32, rel=1e-6)
    assert bit_operations_ratio(work, bits, "product") == pytest.approx((width / 32) ** 2, rel=1e-6)
    assert model_ratio(work, bits) == pytest.approx((400 * width + 13 * 32) / (413 * 32), rel=1e-6)


def test_the_papers_landmarks(work):
    eight, four = (jnp.full(len(work.points), width, jnp.int32) for width in (8, 4))
    assert float(bit_operations_ratio(work, eight)) == pytest.approx(0.25)
    assert float(bit_operations_ratio(work, four)) == pytest.approx(0.125)
    assert float(bit_operations_ratio(work, eight, "product")) == pytest.approx(0.0625)


def test_full_precision_is_exactly_one(work):
    bits = jnp.full(len(work.points), 32, jnp.int32)
    assert float(model_ratio(work, bits)) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_one_more_bit_never_costs_less(work, seed):
    bits = jax.random.randint(jax.random.key(seed), (len(work.points),), 2, 16)
    candidates = bits[None] + jnp.eye(
        len(bits) + 1, len(bits), -1, dtype=jnp.int32
    )  # itself, then one more each
    steps = {}
    for name, cost in {
        "size": lambda b: model_ratio(work, b),
        "max": lambda b: bit_operations_ratio(work, b, "max"),
        "product": lambda b: bit_operations_ratio(work, b, "product"),
    }.items():
        steps[name] = np.asarray(jax.jit(jax.vmap(cost))(candidates))
        assert (steps[name][1:] >= steps[name][0]).all()
    weight = np.array([point.is_weight for point in work.points])
    np.testing.assert_array_equal(steps["size"][1:] > steps["size"][0], weight)


def test_tied_weights_count_once_in_size_and_twice_in_operations():
    def net(p, x):
        y = jax.nn.relu(conv(x, p["first"]))
        return conv(jax.nn.relu(conv(y, p.get("second", p["first"]))), p["wide"])

    w, wide = (jax.ShapeDtypeStruct((3, 3, 4, n), jnp.float32) for n in (4, 8))
    x = jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)
    one = trace(net, {"first": w, "wide": wide}, x)
    two = trace(net, {"first": w, "second": w, "wide": wide}, x)
    points = ["input", "first.weight", "first.activation", "first_2.activation", "wide.weight"]
    assert list(one.point_names) == points
    bits = jnp.asarray([8, 4, 2, 3, 6], jnp.int32)
    assert model_ratio(one, bits) == pytest.approx((144 * 4 + 288 * 6) / (432 * 32))
    assert bit_operations_ratio(one, bits) == pytest.approx((1 * 8 + 1 * 4 + 2 * 6) / (4 * 32))
    bits = jnp.asarray([8, 4, 2, 5, 3, 6], jnp.int32)
    assert two.point_names[3:] == ("second.weight", "second.activation", "wide.weight")
    assert model_ratio(two, bits) == pytest.approx((144 * 4 + 144 * 5 + 288 * 6) / (576 * 32))


def test_a_norm_that_stands_alone_is_stored_in_full():
    def pre_activation(p, x):
        return conv(jax.nn.relu(x * p["scale"][None, None, None] + p["shift"][None, None, None]), p["w"]) + x

    shapes = {"scale": (4,), "shift": (4,), "w": (3, 3, 4, 4)}
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    work = trace(pre_activation, shapes, jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32))
    bits = jnp.full(len(work.points), 8, jnp.int32)
    assert model_ratio(work, bits) == pytest.approx((144 * 8 + 8 * 32) / (152 * 32))


def test_an_operation_that_no_point_feeds_computes_at_32_bits():
    def fn(w, x):
        return jnp.mean(x, (1, 2)) @ w

    w, x = jax.ShapeDtypeStruct((4, 4), jnp.float32), jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)
    work = trace(fn, w, x)
    operations = [dataclasses.replace(op, input_point=-1) if op.w_elems else op for op in work.operations]
    unfed = Workload(tuple(operations), work.points, work.program)
    bits = jnp.full(len(work.points), 4, jnp.int32)
    assert bit_operations_ratio(work, bits) == pytest.approx(4 / 32)
    assert bit_operations_ratio(unfed, bits) == pytest.approx(1.0)
    assert bit_operations_ratio(unfed, bits, "product") == pytest.approx(4 / 32)


def test_jit_and_vmap(work):
    bits = jax.random.randint(jax.random.key(0), (5, len(work.points)), 2, 9)
    traces = 0

    @jax.jit
    def both(bits):
        nonlocal traces
        traces += 1
        return model_ratio(work, bits), bit_operations_ratio(work, bits)

    alone = [both(row) for row in bits]
    assert traces == 1
    together = jax.vmap(both)(bits)
    np.testing.assert_allclose(np.array(alone).T, np.array(together), rtol=1e-6)


def test_an_unknown_definition_is_refused(work):
    bits = jnp.full(len(work.points), 8, jnp.int32)
    with pytest.raises(ValueError, match="definition must be 'max' or 'product', got 'mean'"):
        inspect.unwrap(bit_operations_ratio)(work, bits, "mean")
