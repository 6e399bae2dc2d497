"""Transposed convolutions: one operation, whether it comes from an ONNX file or from a JAX function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hwmodel import trace
from hwmodel.onnx_import.read import from_onnx

onnx = pytest.importorskip("onnx")
OF_A_TRACE = {"equations", "affine", "affine_value", "weight_point", "weight_axis", "input_point"}
NHWC = ("NHWC", "HWIO", "NHWC")
X = np.ones((2, 5, 6, 4), np.float32)


def imported(tmp_path, x, weight, **attributes):
    """The operation of one ConvTranspose on (batch, channels, ...) with a kernel (in, out / groups, ...)."""
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", **attributes)
    info = onnx.helper.make_tensor_value_info
    stored = onnx.numpy_helper.from_array(np.ones(weight, np.float32), "w")
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, x)], [info("y", 1, None)], [stored])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "up.onnx")
    (op,) = from_onnx(tmp_path / "up.onnx").operations
    return op


def told(op):
    """All that does not refer to the traced program, but for the name."""
    return {key: value for key, value in dataclasses.asdict(op).items() if key not in OF_A_TRACE | {"name"}}


def is_whole(op):
    """The output's size by the formula of ONNX, from what the operation says of itself."""
    sizes = zip(op.ifm, op.ofm, op.kernel, op.stride, op.pad, op.dilation, strict=False)
    return all(n == s * (m - 1) + d * (k - 1) + 1 - low - high for m, n, k, s, (low, high), d in sizes)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_jax_and_onnx_agree_in_every_field(tmp_path, k, stride, padding):
    w = np.ones((k, k, 4, 7), np.float32)

    def fn(w, x):
        return jax.lax.conv_transpose(x, w, stride, padding, dimension_numbers=NHWC)

    (op,) = trace(fn, w, X).operations
    rows, columns = fn(w, X).shape[1:3]
    if padding == "SAME":
        mode = {"auto_pad": "SAME_UPPER"}
        if k < max(stride):  # where onnx infers no more than the taps reach
            mode["output_shape"] = [rows, columns]
    else:  # jax ends a short kernel's output with zeros
        mode = {"output_padding": [rows - (4 * stride[0] + k), columns - (5 * stride[1] + k)]}
    assert told(op) == told(imported(tmp_path, (2, 4, 5, 6), (4, 7, k, k), strides=stride, **mode))
    assert op.macs == X.size * 7 * k * k
    assert (op.stride, op.kernel, op.ofm) == (stride, (k, k), (rows, columns, 7))
    assert is_whole(op)


@pytest.mark.parametrize(
    ("k", "padding", "pads"),
    [
        (4, "SAME", [1, 1, 1, 1]),  # the usual upsampling of generators
        (2, "SAME", [0, 0, 0, 0]),
        (3, "SAME", [0, 0, 1, 1]),
        (3, "VALID", [0, 0, 0, 0]),
    ],
)
def test_a_layer_of_flax_against_stated_pads(tmp_path, k, padding, pads):
    layer = nn.ConvTranspose(7, (k, k), (2, 2), padding, use_bias=False)
    params = jax.eval_shape(layer.init, jax.random.key(0), X)
    (op,) = trace(layer.apply, params, X).operations
    other = imported(tmp_path, (2, 4, 5, 6), (4, 7, k, k), strides=[2, 2], pads=pads)
    assert told(op) == told(other)
    assert op.pad == ((pads[0], pads[2]), (pads[1], pads[3]))


def explicit(stride, low, high, dilation, kernel, groups=1):
    """A transposed convolution cropped by low and high, in terms of JAX."""
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    pad = [(r - a, r - b) for r, a, b in zip(reach, low, high, strict=True)]
    one = (1,) * len(kernel)

    def fn(w, x):
        return jax.lax.conv_general_dilated(x, w, one, pad, stride, dilation, feature_group_count=groups)

    return fn


CASES = {  # stride, low, high, dilation, kernel, groups, output channels
    "uneven ends": ((2, 3), (0, 1), (2, 1), (1, 1), (3, 4), 1, 7),
    "dilated": ((2, 2), (1, 0), (1, 3), (2, 3), (3, 2), 1, 7),
    "grouped": ((2, 2), (0, 0), (0, 0), (1, 1), (2, 2), 2, 6),
    "depthwise": ((2, 2), (1, 1), (1, 1), (1, 1), (4, 4), 4, 4),
    "depthwise, two outputs each": ((2, 2), (0, 0), (0, 0), (1, 1), (2, 2), 4, 8),
    "stride 1 is a plain convolution": ((1, 1), (0, 1), (2, 0), (1, 2), (3, 2), 1, 7),
    "one axis": ((2,), (1,), (0,), (1,), (3,), 1, 7),
    "three axes": ((2, 1, 3), (1, 0, 1), (0, 0, 1), (1, 1, 1), (3, 2, 4), 1, 7),
}


@pytest.mark.parametrize("case", CASES)
def test_explicit_cropping(tmp_path, case):
    stride, low, high, dilation, kernel, groups, channels = CASES[case]
    x = np.ones((2, 4, *(5, 6, 7)[: len(kernel)]), np.float32)
    w = np.ones((channels, 4 // groups, *kernel), np.float32)
    fn = explicit(stride, low, high, dilation, kernel, groups)
    (op,) = trace(fn, w, x).operations
    other = imported(
        tmp_path,
        x.shape,
        (4, channels // groups, *kernel),
        strides=stride,
        pads=[*low, *high],
        dilations=dilation,
        group=groups,
    )
    assert told(op) == told(other)
    assert op.kind == ("dwconv" if groups == 4 else "conv")
    if max(stride) > 1 and len(kernel) < 3:
        assert op.pad[0] == (low[0], high[0])
        assert is_whole(op)


@pytest.mark.parametrize(
    ("attributes", "pad"),
    [
        ({"auto_pad": "SAME_UPPER"}, (0, 1)),
        ({"auto_pad": "SAME_LOWER"}, (1, 0)),
        ({"auto_pad": "VALID"}, (0, 0)),
        ({"output_shape": [10, 12]}, (1, 0)),
        ({"output_shape": [10, 12], "output_padding": [1, 1]}, (1, 0)),
        ({"pads": [1, 1, 1, 1], "output_padding": [1, 1]}, (1, 0)),
        ({"output_shape": [12, 14]}, (0, -1)),
    ],
)
def test_how_a_file_may_state_the_padding(tmp_path, attributes, pad):
    op = imported(tmp_path, (2, 4, 5, 6), (4, 7, 3, 3), strides=[2, 2], **attributes)
    assert op.pad == (pad, pad)
    assert is_whole(op)


def test_the_gradient_of_a_strided_convolution_is_its_transpose():
    """By the input: cropped by what the convolution is padded by."""
    w = jnp.ones((3, 3, 4, 7))

    def forward(w, x):
        return jax.lax.conv_general_dilated(x, w, (2, 2), [(1, 1), (1, 0)], dimension_numbers=NHWC)

    plain = trace(forward, w, X).operations[0]
    made = jnp.ones(forward(w, X).shape)
    back = trace(lambda w, y: jax.vjp(lambda x: forward(w, x), jnp.asarray(X))[1](y), w, made)
    op = next(op for op in back.operations if op.kind == "conv" and op.ext_in == made.size)
    assert (op.stride, op.kernel, op.macs) == (plain.stride, plain.kernel, plain.macs)
    assert (op.ifm, op.ofm) == (plain.ofm, plain.ifm)
    assert is_whole(op)
    assert [low for low, _ in op.pad] == [low for low, _ in plain.pad]
