"""Counts of single operations against loops that carry the operation out and count while they do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import trace


def counted_convolution(x, w, stride, pad, dilation, groups):
    """NHWC * HWIO by loops in float64: (output, multiplications)."""
    x = np.pad(x, ((0, 0), *pad, (0, 0)))
    (kh, kw, inside, outputs), (n, height, width, _) = w.shape, x.shape
    rows = (height - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    columns = (width - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    y, multiplications = np.zeros((n, rows, columns, outputs)), 0
    for r, c, i, j, o in itertools.product(*map(range, (rows, columns, kh, kw, outputs))):
        first = o // (outputs // groups) * inside
        row, column = r * stride[0] + i * dilation[0], c * stride[1] + j * dilation[1]
        products = x[:, row, column, first : first + inside] * w[i, j, :, o]
        y[:, r, c, o] += products.sum(1)
        multiplications += products.size
    return y, multiplications


def draw(seed):
    """A random convolution; every third one depthwise, every third one grouped."""
    rng = np.random.default_rng(seed)
    groups, inside = [(1, 3), (4, 1), (2, 2)][seed % 3]
    kernel, stride, dilation = rng.integers(1, 4, 2), rng.integers(1, 3, 2), rng.integers(1, 3, 2)
    pad = [tuple(map(int, rng.integers(0, 3, 2))) for _ in range(2)]
    x = rng.normal(size=(2, 7, 8, groups * inside)).astype(np.float32)
    w = rng.normal(size=(*kernel, inside, groups * int(rng.integers(1, 3)))).astype(np.float32)
    return x, w, *(tuple(map(int, v)) for v in (stride, dilation)), pad, groups


@pytest.mark.parametrize("seed", range(12))
def test_convolution_against_loops(seed):
    x, w, stride, dilation, pad, groups = draw(seed)

    def fn(w, x):
        return jax.lax.conv_general_dilated(
            x, w, stride, pad, None, dilation, ("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    expected, multiplications = counted_convolution(x, w, stride, pad, dilation, groups)
    np.testing.assert_allclose(fn(w, x), expected, atol=1e-4)  # the loops are the convolution
    (op,) = trace(fn, w, x).operations
    assert op.macs == multiplications
    assert op.kind == ("dwconv" if groups == 4 else "conv")
    assert op.w_elems == op.w_reads == w.size
    assert op.o_elems == expected.size
    assert (op.batch, op.ifm, op.ofm) == (2, x.shape[1:], expected.shape[1:])
    assert (op.kernel, op.stride, op.dilation) == (w.shape[:2], stride, dilation)
    assert (op.pad, op.groups) == (tuple(pad), groups)
    assert (op.ext_in, op.parents, op.is_output) == (x.size, (), True)


@pytest.mark.parametrize(
    ("layout", "x", "w"),
    [(("NCHW", "OIHW", "NCHW"), (2, 3, 7, 8), (5, 3, 3, 2)), (None, (2, 3, 7, 8), (5, 3, 3, 2))],
)
def test_a_layout_changes_no_count(layout, x, w):
    def fn(w, x):
        return jax.lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=layout)

    x, w = np.ones(x, np.float32), np.ones(w, np.float32)
    (op,) = trace(fn, w, x).operations
    moved, kernel = x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0)
    pad = [(1, 1), (0, 1)]  # SAME: 7 rows by 3 at stride 2, 8 columns by 2 at stride 1
    y, multiplications = counted_convolution(moved, kernel, (2, 1), pad, (1, 1), 1)
    assert op.macs == multiplications
    assert (op.ifm, op.ofm, op.kernel, op.pad) == ((7, 8, 3), y.shape[1:], (3, 2), tuple(pad))
    assert op.weight_axis == 0


def test_one_dimensional_convolution():
    def fn(w, x):
        return jax.lax.conv_general_dilated(x, w, (2,), [(1, 0)], dimension_numbers=("NWC", "WIO", "NWC"))

    (op,) = trace(fn, np.ones((3, 4, 5), np.float32), np.ones((2, 9, 4), np.float32)).operations
    assert (op.ifm, op.ofm, op.macs) == ((9, 1, 4), (4, 1, 5), 2 * 4 * 5 * 3 * 4)
    assert (op.kernel, op.stride, op.pad, op.dilation) == ((3, 1), (2, 1), ((1, 0), (0, 0)), (1, 1))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (2, 3, 5, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_product_against_loops(shape, transposed):
    x, w = np.ones(shape, np.float32), np.ones((6, 4) if transposed else (4, 6), np.float32)
    contract = (((len(shape) - 1,), (1 if transposed else 0,)), ((), ()))
    (op,) = trace(lambda w, x: jax.lax.dot_general(x, w, contract), w, x).operations
    assert op.macs == sum(1 for _ in itertools.product(*map(range, (*shape, 6))))
    rows = int(np.prod(shape[1:-1]))
    assert (op.kind, op.ifm, op.ofm) == ("dense", (rows, 1, 4), (rows, 1, 6))
    assert op.batch == (shape[0] if len(shape) > 1 else 1)
    assert op.weight_axis == (0 if transposed else 1)


@pytest.mark.parametrize("init", ["max", "sum"])
def test_window_pooling_counts_the_elements_it_touches(init):
    start, reduce = (-jnp.inf, jax.lax.max) if init == "max" else (0.0, jax.lax.add)

    def fn(_, x):
        return jax.lax.reduce_window(x, start, reduce, (1, 3, 2, 1), (1, 2, 1, 1), "SAME")

    (op,) = trace(fn, (), np.ones((2, 7, 8, 3), np.float32)).operations
    assert (op.kind, op.ifm, op.ofm, op.macs) == ("pool", (7, 8, 3), (4, 8, 3), 2 * 4 * 8 * 3 * 6)
    assert (op.kernel, op.stride, op.pad) == ((3, 2), (2, 1), ((1, 1), (0, 1)))
    assert op.w_id == -1


@pytest.mark.parametrize("keepdims", [False, True])
def test_a_mean_over_the_image_is_a_pooling(keepdims):
    (op,) = trace(
        lambda _, x: jnp.mean(x, (1, 2), keepdims=keepdims), (), np.ones((2, 7, 8, 3), np.float32)
    ).operations
    assert (op.kind, op.ifm, op.ofm, op.macs, op.kernel) == (
        "pool",
        (7, 8, 3),
        (1, 1, 3),
        2 * 7 * 8 * 3,
        (7, 8),
    )
    assert op.o_elems == 6


def counted_transposed(x, w, stride):
    """NHWC * HWIO, every input element spread over the taps: (output before cropping, multiplications)."""
    (n, height, width, _), (kh, kw, _, outputs) = x.shape, w.shape
    y = np.zeros((n, (height - 1) * stride[0] + kh, (width - 1) * stride[1] + kw, outputs))
    multiplications = 0
    for r, c, i, j in itertools.product(*map(range, (height, width, kh, kw))):
        y[:, r * stride[0] + i, c * stride[1] + j] += x[:, r, c] @ w[i, j]
        multiplications += n * w[i, j].size
    return y, multiplications


@pytest.mark.parametrize(("kernel", "stride"), [((2, 2), (2, 2)), ((3, 2), (2, 3)), ((3, 3), (1, 2))])
def test_a_transposed_convolution_against_loops(kernel, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    w = rng.normal(size=(*kernel, 3, 6)).astype(np.float32)

    def fn(w, x):  # padding of kernel - 1 keeps everything
        pad = [(k - 1, k - 1) for k in kernel]
        flipped = w[::-1, ::-1]
        return jax.lax.conv_general_dilated(
            x, flipped, (1, 1), pad, lhs_dilation=stride, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    y, multiplications = counted_transposed(x, w, stride)
    np.testing.assert_allclose(fn(w, x), y, atol=1e-4)
    (op,) = trace(fn, w, x).operations
    assert op.macs == multiplications
    assert (op.kind, op.ifm, op.ofm, op.w_elems) == ("conv", (4, 5, 3), y.shape[1:], w.size)
    assert (op.stride, op.pad, op.kernel) == (stride, ((0, 0), (0, 0)), kernel)


@pytest.mark.parametrize(("spread", "stride"), [((2, 2), (2, 2)), ((2, 1), (1, 2)), ((3, 3), (2, 1))])
def test_spread_input_and_skipped_output_are_no_convolution_of_either_kind(spread, stride):
    def fn(w, x):
        return jax.lax.conv_general_dilated(x, w, stride, [(1, 1)] * 2, lhs_dilation=spread)

    x, w = np.ones((1, 3, 6, 6), np.float32), np.ones((4, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"at .*test_geometry.py:\d+ has lhs_dilation .* and window_strides"):
        trace(fn, w, x)


def test_a_three_dimensional_convolution_folds_its_first_two_axes():
    def fn(w, x):
        dims = ("NDHWC", "DHWIO", "NDHWC")
        pad = [(0, 0), (1, 1), (0, 2)]
        return jax.lax.conv_general_dilated(x, w, (1, 2, 1), pad, None, (1, 1, 2), dims)

    x, w = np.ones((2, 4, 6, 5, 3), np.float32), np.ones((2, 3, 2, 3, 7), np.float32)
    y = fn(w, x)
    (op,) = trace(fn, w, x).operations
    assert op.macs == y.size * 3 * 2 * 3 * 2
    assert op.o_elems == y.size
    assert (op.ifm, op.ofm) == ((24, 5, 3), (y.shape[1] * y.shape[2], y.shape[3], 7))
    assert (op.kernel, op.stride, op.pad, op.dilation) == ((6, 2), (2, 1), ((1, 1), (0, 2)), (1, 2))


def test_a_convolution_with_batch_groups_against_its_shapes():
    """Each group of the batch meets its own output channels: one row of products per output element."""

    def fn(w, x):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), batch_group_count=2
        )

    x, w = np.ones((2, 4, 4, 2), np.float32), np.ones((3, 3, 2, 6), np.float32)
    (op,) = trace(fn, w, x).operations
    assert op.macs == fn(w, x).size * 2 * 9


def draw_product(seed):
    """A random dot_general: (dimension numbers, shape of the left, shape of the right, loop lengths)."""
    rng = np.random.default_rng(seed)
    batch, inner, left, right = (
        list(rng.integers(2, 5, n)) for n in rng.integers([0, 1, 0, 0], [3, 3, 3, 3])
    )

    def side(free):
        roles = [("b", i, n) for i, n in enumerate(batch)] + [("c", i, n) for i, n in enumerate(inner)]
        roles += [("f", i, n) for i, n in enumerate(free)]
        roles = [roles[i] for i in rng.permutation(len(roles))]
        place = {(kind, i): axis for axis, (kind, i, _) in enumerate(roles)}
        contracted = tuple(place["c", i] for i in range(len(inner)))
        return tuple(int(n) for *_, n in roles), contracted, tuple(place["b", i] for i in range(len(batch)))

    (x, x_c, x_b), (y, y_c, y_b) = side(left), side(right)
    return ((x_c, y_c), (x_b, y_b)), x, y, [*batch, *inner, *left, *right]


@pytest.mark.parametrize("seed", range(16))
def test_every_matrix_product_counts_its_loops(seed):
    dimensions, x, y, loops = draw_product(seed)
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, y))
    multiplications = sum(1 for _ in itertools.product(*map(range, loops)))

    def fn(a, b):
        return jax.lax.dot_general(a, b, dimensions)

    cases = {(1, "dense"): y, (0, "dense"): x, ((), "matmul"): None}
    for (params, kind), weight in cases.items():
        work = trace(fn, x, y, params=params)
        assert len(work.operations) <= 2  # a weight on the left may leave a transposition behind
        op = work.operations[0]
        assert (op.kind, op.macs) == (kind, multiplications)
        assert op.o_elems == np.prod(jax.eval_shape(fn, x, y).shape)
        assert op.w_elems == (0 if weight is None else np.prod(weight.shape))
        assert op.batch * np.prod(op.ofm) == op.o_elems
        assert op.ext_in == sum(np.prod(a.shape) for a in (x, y) if a is not weight)


REDUCTIONS = {  # function, shape: sizes in, sizes out, kernel, batch
    "image, channels first": (lambda x: jnp.mean(x, (2, 3)), (2, 3, 4, 5), (4, 5, 3), (1, 1, 3), (4, 5), 2),
    "sequence": (lambda x: jnp.sum(x, 1), (2, 7, 3), (7, 1, 3), (1, 1, 3), (7, 1), 2),
    "channels": (lambda x: jnp.max(x, -1), (2, 4, 5, 3), (4, 5, 3), (4, 5, 1), (1, 1), 2),
    "batch": (lambda x: jnp.sum(x, 0), (2, 4, 5, 3), (8, 5, 3), (4, 5, 3), (2, 1), 1),
    "volume": (lambda x: jnp.min(x, (1, 2, 3)), (2, 4, 5, 6, 3), (20, 6, 3), (1, 1, 3), (20, 6), 2),
    "argmax": (lambda x: jnp.argmax(x, -1), (2, 10), (1, 1, 10), (1, 1, 1), (1, 1), 2),
    "everything": (lambda x: jnp.sum(x), (2, 4, 3), (2, 4, 3), (1, 1, 1), (2, 4), 1),
}


@pytest.mark.parametrize("case", REDUCTIONS)
def test_a_reduction_touches_every_element_once(case):
    fn, shape, ifm, ofm, kernel, batch = REDUCTIONS[case]
    (op,) = trace(fn, jax.ShapeDtypeStruct(shape, jnp.float32), params=()).operations
    assert (op.kind, op.macs, op.batch) == ("pool", np.prod(shape), batch)
    assert (op.ifm, op.ofm) == (ifm, ofm)
    assert op.kernel == kernel
    assert op.o_elems == op.batch * np.prod(op.ofm)


def test_a_window_over_channels_first():
    def fn(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 3, 2), (1, 1, 2, 2), "VALID")

    (op,) = trace(fn, np.ones((2, 3, 7, 8), np.float32), params=()).operations
    assert (op.ifm, op.ofm, op.macs) == ((7, 8, 3), (3, 4, 3), 2 * 3 * 3 * 4 * 6)
    assert (op.kernel, op.stride) == ((3, 2), (2, 2))


def test_a_convolution_of_two_activations_has_two_parents_and_no_weights():
    (op,) = trace(
        conv_of, np.ones((2, 4, 4, 3), np.float32), np.ones((3, 3, 3, 5), np.float32), params=()
    ).operations
    assert (op.kind, op.w_elems, op.w_id, op.macs) == ("conv", 0, -1, 2 * 16 * 5 * 27)
    assert op.ext_in == 2 * 48 + 135


def test_a_convolution_by_an_activation_stores_its_left_operand():
    (op,) = trace(conv_of, np.ones((2, 4, 4, 3), np.float32), np.ones((3, 3, 3, 5), np.float32)).operations
    assert (op.w_elems, op.ext_in, op.weight_point, op.macs) == (96, 135, -1, 2 * 16 * 5 * 27)


def conv_of(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
