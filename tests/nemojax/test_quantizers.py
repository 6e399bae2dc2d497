"""The quantizer against its definition in NumPy, against ONNX, and by its properties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import onnx.helper
import onnx.reference
import pytest

from nemojax.quantizers import fake_quantize, grid

BITS = (*range(2, 17), 32)
ROUNDING = 3e-7  # relative, of a float32 division and a product


def definition(x, low, high, bits, symmetric=False):
    """(x^, q, scale, zero point) as the module's docstring has them, integers kept apart, in float32."""
    f = np.float32
    low, high = np.minimum(low, f(0)), np.maximum(high, f(0))
    q_min, q_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        signed = low < 0
        s = np.maximum(-low, high) / np.where(signed, q_max, 2**bits - 1).astype(f)
        s = np.where(s > 0, s, f(1))
        z = np.where(signed, 0, q_min)
    else:
        s = (high - low) / f(2**bits - 1)
        s = np.where(s > 0, s, f(1))
        z = q_min - np.rint(low / s).astype(np.int64)
    q = np.clip(np.rint(x / s).astype(np.int64) + z, q_min, q_max)
    return s * (q - z).astype(f), q, s, z


@jax.jit(static_argnames="symmetric")
def quantized(x, low, high, bits, symmetric=False):
    return fake_quantize(x, low, high, bits, symmetric=symmetric)


def case(seed, axis=None):
    """Values inside and outside of a range, exact halves of a step among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 50)).astype(np.float32) * np.float32(10.0 ** rng.integers(-3, 3))
    x[:, :3] = 0.0
    if axis is None:
        return x, np.float32(x.min() * rng.uniform(0.3, 1)), np.float32(x.max() * rng.uniform(0.3, 1))
    return x, x.min(axis, keepdims=True) * np.float32(0.7), x.max(axis, keepdims=True) * np.float32(0.9)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("axis", [None, 1], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("positive", [False, True])
def test_equals_the_definition(axis, symmetric, positive):
    for seed in range(5):
        x, low, high = case(seed, axis)
        if positive:
            x, low = np.abs(x), np.zeros_like(low)
        for bits in BITS[:-1]:
            found = quantized(x, low, high, bits, symmetric=symmetric)
            expected, q, s, z = definition(x, low, high, bits, symmetric)
            u = np.float64(x) / s
            clear = np.abs(u % 1 - 0.5) > ROUNDING * np.abs(u)  # of a tie
            assert clear.mean() > 0.95
            np.testing.assert_allclose(found[clear], expected[clear], rtol=4e-7, atol=0)
            steps = np.rint(np.asarray(found) / s).astype(np.int64)
            np.testing.assert_array_equal((steps + z)[clear], q[clear])
            assert np.abs(steps + z - q).max() <= 1
            g = grid(jnp.asarray(low), jnp.asarray(high), jnp.asarray(bits), symmetric=symmetric)
            np.testing.assert_array_equal(np.broadcast_to(g.zero_point(jnp.asarray(bits)), np.shape(z)), z)
            np.testing.assert_allclose(g.scale, s, rtol=4e-7)


def test_one_trace_serves_all_bits():
    x, low, high = case(0)
    traces = 0

    @jax.jit
    def counted(bits):
        nonlocal traces
        traces += 1
        return fake_quantize(jnp.asarray(x), jnp.asarray(low), jnp.asarray(high), bits)

    outputs = [counted(jnp.asarray(bits)) for bits in BITS]
    assert traces == 1
    assert [len(np.unique(output)) for output in outputs[:3]] == [4, 8, 16]
    np.testing.assert_array_equal(outputs[-1], x)  # 32 bits: as it is


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS[:-1])
def test_properties(bits, symmetric):
    """Error at most half a step inside the range, idempotent, zero exact, monotone, at most 2^b values."""
    x, low, high = case(bits)
    out = np.asarray(quantized(x, low, high, bits, symmetric=symmetric))
    s = float(grid(jnp.asarray(low), jnp.asarray(high), jnp.asarray(bits), symmetric=symmetric).scale)
    # rounding x_min / s to a whole zero point moves the ends of the grid by up to half a step
    inside = (x >= low + s / 2) & (x <= high - s / 2)
    assert inside.sum() > 20
    assert (np.abs(out - x) <= s / 2 + ROUNDING * np.abs(x))[inside].all()
    np.testing.assert_array_equal(quantized(out, low, high, bits, symmetric=symmetric), out)
    np.testing.assert_array_equal(out[x == 0], 0.0)
    order = np.argsort(x.ravel())
    assert (np.diff(out.ravel()[order]) >= 0).all()
    assert len(np.unique(out)) <= 2**bits


def test_the_error_falls_with_the_bits():
    x, low, high = case(1)
    x = np.clip(x, low, high)
    errors = [float(np.square(quantized(x, low, high, bits) - x).sum()) for bits in BITS[:-1]]
    assert all(b < a / 2 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("low", "high", "reaches"),
    [
        (0.0, 0.0, (0.0, 0.0)),  # a constant zero tensor
        (2.0, 5.0, (0.0, 5.0)),  # all positive: widened to hold zero
        (-5.0, -2.0, (-5.0, 0.0)),
        (3.0, 3.0, (0.0, 3.0)),  # a constant tensor
        (-3.0, -3.0, (-3.0, 0.0)),
    ],
)
def test_degenerate_ranges(low, high, reaches, symmetric):
    x = np.linspace(*reaches, 41, dtype=np.float32)
    for bits in BITS:
        out = np.asarray(quantized(x, np.float32(low), np.float32(high), bits, symmetric=symmetric))
        assert np.isfinite(out).all()
        span = max(reaches[1] - reaches[0], 0.0)
        step = span / ((2 ** (bits - 1) - 1) if symmetric and low < 0 else 2**bits - 1)
        assert (np.abs(out - x) <= step / 2 + ROUNDING * np.abs(x)).all()
        for end in reaches:  # both ends lie on the grid
            np.testing.assert_allclose(out[x == np.float32(end)], end, rtol=1e-6)


def test_a_range_of_width_zero_has_step_one():
    for symmetric in (False, True):
        g = grid(jnp.zeros(()), jnp.zeros(()), jnp.asarray(4), symmetric=symmetric)
        assert float(g.scale) == 1.0
        assert float(g.first) <= 0.0 <= float(g.last)


def test_the_symmetric_grid_is_signed_only_where_it_must_be():
    low, high = jnp.asarray([[-1.0], [0.0], [-3.0]]), jnp.asarray([[2.0], [2.0], [0.0]])
    g = grid(low, high, jnp.asarray(4), symmetric=True)
    np.testing.assert_allclose(g.scale.ravel(), [2 / 7, 2 / 15, 3 / 7], rtol=1e-6)
    np.testing.assert_array_equal(g.first.ravel(), [-8, 0, -8])
    np.testing.assert_array_equal(g.last.ravel(), [7, 15, 7])
    np.testing.assert_array_equal(g.zero_point(jnp.asarray(4)).ravel(), [0, -8, 0])


def test_ties_go_to_the_even_step():
    x = jnp.asarray([0.5, 1.5, 2.5, -0.5, -1.5])  # the step is 1: bits 4, range -8 to 7
    out = quantized(x, np.float32(-8), np.float32(7), 4)
    np.testing.assert_array_equal(out, [0.0, 2.0, 2.0, 0.0, -2.0])


def test_the_gradient_is_straight_through():
    x = jnp.asarray([-9.0, -7.9, -0.3, 0.2, 6.4, 6.9, 8.0])
    for bits, inside in ((4, [0, 1, 1, 1, 1, 1, 0]), (32, [1] * 7)):
        found = jax.jit(jax.grad(lambda x, b: jnp.sum(fake_quantize(x, jnp.float32(-8), jnp.float32(7), b))))(
            x, bits
        )
        np.testing.assert_allclose(found, inside, atol=1e-6)


@pytest.mark.parametrize("axis", [None, 1])
def test_without_straight_through_the_numbers_are_the_same_and_the_gradient_is_none(axis):
    x, low, high = map(jnp.asarray, case(2, axis))

    @jax.jit(static_argnums=1)
    def run(bits, straight_through):
        def out(x):
            return fake_quantize(x, low, high, bits, straight_through=straight_through)

        return out(x), jax.grad(lambda x: out(x).sum())(x)

    for bits in BITS:
        (left, _), (right, gradient) = run(bits, True), run(bits, False)
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(gradient, 1.0 if bits == 32 else 0.0)


def onnx_round_trip(x, scale, zero_point, axis):
    """QuantizeLinear then DequantizeLinear in ONNX's reference evaluator, opset 19."""
    wanted = onnx.helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    kind = onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    inputs = [info("x", kind, x.shape), info("s", kind, scale.shape), info("z", wanted, zero_point.shape)]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [info("y", kind, x.shape), info("q", wanted, x.shape)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    onnx.checker.check_model(model)
    return onnx.reference.ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero_point})


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0], ids=["per tensor", "per axis"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_onnx_at_eight_bits(axis, symmetric, dtype):
    """uint8 is int8 with the zero point moved by 128."""
    for seed in range(4):
        x, low, high = case(10 + seed, None if axis is None else 1)
        bits = jnp.asarray(8)
        g = grid(jnp.asarray(low), jnp.asarray(high), bits, symmetric=symmetric)
        zero = np.asarray(g.zero_point(bits)) + (128 if dtype == np.uint8 else 0)
        zero = np.broadcast_to(zero, np.shape(g.scale)).astype(dtype)
        scale = np.asarray(g.scale)
        if axis is not None:
            scale, zero = scale.ravel(), zero.ravel()
        expected, q = onnx_round_trip(x, scale, zero, axis if axis is not None else 1)
        found = np.asarray(quantized(x, low, high, 8, symmetric=symmetric))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
        assert len(np.unique(q)) > 40
