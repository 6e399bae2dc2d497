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


def conv3d(w, x):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def batch_groups(w, x):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), batch_group_count=2
    )


def channel_window(_, x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 1, 2), (1, 1, 1, 1), "VALID")


IMAGE = np.ones((2, 4, 4, 2), np.float32)
REFUSED = {
    "3-d convolution": (conv3d, np.ones((1, 1, 1, 2, 2), np.float32), IMAGE[:, None], "over 3 dimensions"),
    "transposed": (
        lambda w, x: jax.lax.conv_transpose(x, w, (2, 2), "SAME"),
        np.ones((3, 3, 2, 2), np.float32),
        IMAGE,
        "transposed",
    ),
    "batch groups": (batch_groups, np.ones((3, 3, 2, 2), np.float32), IMAGE, "batch_group_count"),
    "batched product": (
        lambda w, x: jnp.einsum("bij,bjk->bik", x, w),
        np.ones((2, 4, 3), np.float32),
        IMAGE[..., 0],
        "dot_general of",
    ),
    "product over two axes": (
        lambda w, x: jnp.einsum("bij,ijk->bk", x, w),
        np.ones((4, 4, 3), np.float32),
        IMAGE[..., 0],
        "dot_general of",
    ),
    "sum over the batch": (lambda _, x: jnp.sum(x, 0), (), IMAGE, r"reduce_sum over axes \(0,\)"),
    "sum over a sequence": (lambda _, x: jnp.sum(x, 1), (), IMAGE[..., 0], "reduce_sum"),
    "window over channels": (channel_window, (), IMAGE, "reduce_window_max of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_with_its_place(case):
    fn, params, x, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as refusal:
        trace(fn, params, x)
    assert "test_geometry.py:" in str(refusal.value)
