"""Small ONNX graphs, operator by operator: what becomes an operation, with which counts and edges."""

import math

import numpy as np
import pytest

from hwmodel import Edge
from hwmodel.onnx_import.read import from_onnx

onnx = pytest.importorskip("onnx")
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def node(op, inputs, output, **attributes):
    outputs = output.split()
    read = ["" if name == "-" else name for name in inputs.split()]
    return onnx.helper.make_node(op, read, outputs, name=f"{op}.{outputs[0]}", **attributes)


@pytest.fixture
def load(tmp_path):
    """A graph of the nodes -> its workload; weights are shapes, small constants arrays."""

    def run(nodes, inputs, outputs, weights=(), constants=(), opset=17, functions=(), **options):
        stored = [
            onnx.helper.make_tensor(name, FLOAT, shape, np.zeros(math.prod(shape)))
            for name, shape in dict(weights).items()
        ] + [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
        graph = onnx.helper.make_graph(
            nodes,
            "graph",
            [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
            [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in outputs.split()],
            stored,
        )
        opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("local", 1)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, functions=list(functions))
        onnx.save(model, tmp_path / "model.onnx")
        return from_onnx(tmp_path / "model.onnx", **options)

    return run


def shown(work):
    """name -> (kind, names of the operations it reads)."""
    return {
        op.name: (op.kind, [work.operations[e.producer].name for e in op.parents]) for op in work.operations
    }


IMAGE = {"x": (1, 3, 8, 8)}


@pytest.mark.parametrize(
    ("weight", "attributes", "kind", "out", "macs"),
    [
        ((4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, "conv", (8, 8, 4), 64 * 4 * 27),
        ((4, 3, 3, 3), {"strides": [2, 2]}, "conv", (3, 3, 4), 9 * 4 * 27),
        ((4, 3, 3, 3), {"dilations": [2, 2]}, "conv", (4, 4, 4), 16 * 4 * 27),
        ((3, 1, 3, 3), {"group": 3}, "dwconv", (6, 6, 3), 36 * 3 * 9),
        ((6, 1, 3, 3), {"group": 3}, "dwconv", (6, 6, 6), 36 * 6 * 9),
        ((4, 3, 3, 1), {"auto_pad": "SAME_UPPER"}, "conv", (8, 8, 4), 64 * 4 * 9),
    ],
)
def test_convolution(load, weight, attributes, kind, out, macs):
    work = load([node("Conv", "x w", "y", **attributes)], IMAGE, "y", {"w": weight})
    (op,) = work.operations
    assert (op.kind, op.macs, op.ifm, op.ofm) == (kind, macs, (8, 8, 3), out)
    assert (op.w_elems, op.w_reads, op.w_id) == (math.prod(weight), math.prod(weight), 0)
    assert (op.o_elems, op.ext_in, op.is_output, op.batch) == (math.prod(out), 192, True, 1)
    assert op.kernel == weight[2:]
    assert op.stride == tuple(attributes.get("strides", (1, 1)))
    assert op.dilation == tuple(attributes.get("dilations", (1, 1)))
    assert op.groups == attributes.get("group", 1)


@pytest.mark.parametrize(("mode", "pad"), [("SAME_UPPER", (0, 1)), ("SAME_LOWER", (1, 0)), ("VALID", (0, 0))])
def test_automatic_padding(load, mode, pad):
    conv = node("Conv", "x w", "y", auto_pad=mode, strides=[2, 2])
    (op,) = load([conv], IMAGE, "y", {"w": (4, 3, 3, 3)}).operations
    assert op.pad == (pad, pad)


def test_stated_padding_is_of_beginnings_then_ends(load):
    (op,) = load([node("Conv", "x w", "y", pads=[1, 2, 3, 4])], IMAGE, "y", {"w": (4, 3, 3, 3)}).operations
    assert op.pad == ((1, 3), (2, 4))
    assert op.ofm == (10, 12, 4)


def test_transposed_convolution_multiplies_every_input_with_every_tap(load):
    work = load([node("ConvTranspose", "x w", "y", strides=[2, 2])], IMAGE, "y", {"w": (3, 5, 2, 2)})
    (op,) = work.operations
    assert (op.kind, op.macs, op.ofm) == ("conv", 64 * 3 * 5 * 4, (16, 16, 5))


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_over_one_and_three_axes(load, rank):
    size = {1: (8,), 3: (4, 8, 8)}[rank]
    work = load([node("Conv", "x w", "y")], {"x": (2, 3, *size)}, "y", {"w": (4, 3, *[3] * rank)})
    (op,) = work.operations
    out = [n - 2 for n in size]
    assert op.macs == 2 * 4 * math.prod(out) * 3 * 3**rank
    assert op.batch == 2
    assert op.ofm == ((6, 1, 4) if rank == 1 else (2 * 6, 6, 4))


def test_bias_norm_activation_and_residual_join(load):
    work = load(
        [
            node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "a s b m v", "c"),
            node("Relu", "c", "d"),
            node("Conv", "d w2 bias", "e", pads=[1, 1, 1, 1]),
            node("Mul", "e scale", "f"),
            node("Add", "shift f", "g"),
            node("Add", "x g", "h"),
            node("Clip", "h low high", "y"),
        ],
        IMAGE,
        "y",
        {"w": (3, 3, 3, 3), "w2": (3, 3, 3, 3), "scale": (3, 1, 1), "shift": (1, 3, 1, 1)}
        | dict.fromkeys(["s", "b", "m", "v", "bias"], (3,)),
        {"low": np.float32(0), "high": np.float32(6)},
    )
    assert shown(work) == {"Conv.a": ("conv", []), "Conv.e": ("conv", ["Conv.a"])}
    first, second = work.operations
    assert [first.bias_elems, second.bias_elems] == [3, 3]
    assert [first.ext_in, second.ext_in] == [192, 192]


def test_a_scale_alone_leaves_no_bias(load):
    work = load(
        [node("Conv", "x w", "a"), node("Mul", "a s", "y")], IMAGE, "y", {"w": (4, 3, 1, 1), "s": (4, 1, 1)}
    )
    assert [op.bias_elems for op in work.operations] == [0]


def test_a_constant_along_another_axis_is_no_bias(load):
    work = load(
        [node("Conv", "x w", "a"), node("Add", "a b", "y")], IMAGE, "y", {"w": (4, 3, 1, 1), "b": (8,)}
    )
    assert shown(work) == {"Conv.a": ("conv", [])}
    assert work.operations[0].bias_elems == 8


def test_a_value_read_twice_is_not_fused_across(load):
    work = load(
        [
            node("Conv", "x w", "a"),
            node("Relu", "a", "b"),
            node("Conv", "b v", "c"),
            node("Add", "a c", "y"),
        ],
        IMAGE,
        "y",
        {"w": (4, 3, 1, 1), "v": (4, 4, 1, 1)},
    )
    assert shown(work) == {
        "Conv.a": ("conv", []),
        "Relu.b": ("act", ["Conv.a"]),
        "Conv.c": ("conv", ["Relu.b", "Conv.a"]),
    }


def test_a_graph_output_is_not_fused_across(load):
    work = load([node("Conv", "x w", "a"), node("Relu", "a", "y")], IMAGE, "a y", {"w": (4, 3, 1, 1)})
    assert [op.is_output for op in work.operations] == [True, True]


def test_an_add_after_pooling_is_a_node(load):
    work = load([node("MaxPool", "x", "a", kernel_shape=[1, 1]), node("Add", "a x", "y")], IMAGE, "y")
    assert shown(work) == {"MaxPool.a": ("pool", []), "Add.y": ("add", ["MaxPool.a"])}


def test_a_gate_that_widens_is_a_node(load):
    work = load(
        [
            node("Conv", "x w", "a"),
            node("GlobalAveragePool", "a", "b"),
            node("Conv", "b v", "c"),
            node("Sigmoid", "c", "d"),
            node("Mul", "a d", "y"),
        ],
        IMAGE,
        "y",
        {"w": (4, 3, 1, 1), "v": (4, 4, 1, 1)},
    )
    assert shown(work)["Mul.y"] == ("other", ["Conv.a", "Conv.c"])
    assert work.operations[-1].macs == 4 * 64


GELU = [
    node("Div", "a root", "g1"),
    node("Erf", "g1", "g2"),
    node("Add", "g2 one", "g3"),
    node("Mul", "a g3", "g4"),
    node("Mul", "g4 half", "z"),
]
SILU = [node("Sigmoid", "a", "s"), node("Mul", "a s", "z")]
HARD_SWISH = [
    node("Add", "a three", "h1"),
    node("Clip", "h1 zero six", "h2"),
    node("Mul", "a h2", "h3"),
    node("Div", "h3 six", "z"),
]
SCALARS = {
    name: np.float32(value)
    for name, value in {
        "root": math.sqrt(2), "one": 1, "half": 0.5, "two": 2, "three": 3, "zero": 0, "six": 6, "eps": 1e-5
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("pattern", [GELU, SILU, HARD_SWISH, [node("Gelu", "a", "z")]])
def test_activation_functions_written_out_join_their_producer(load, pattern):
    work = load(
        [node("MatMul", "x w", "m"), node("Add", "b m", "a"), *pattern, node("MatMul", "z v", "y")],
        {"x": (2, 5, 8)},
        "y",
        {"w": (8, 16), "v": (16, 8), "b": (16,)},
        SCALARS,
        opset=20,
    )
    assert shown(work) == {"MatMul.m": ("dense", []), "MatMul.y": ("dense", ["MatMul.m"])}
    first = work.operations[0]
    assert (first.macs, first.bias_elems, first.batch) == (2 * 5 * 8 * 16, 16, 2)
    assert (first.ifm, first.ofm) == ((5, 1, 8), (5, 1, 16))


def test_an_activation_function_of_a_shared_value_is_one_node(load):
    work = load(
        [node("MatMul", "x w", "a"), *SILU, node("MatMul", "z w", "y"), node("MatMul", "a w", "y2")],
        {"x": (4, 8)},
        "y y2",
        {"w": (8, 8)},
    )
    assert [op.kind for op in work.operations] == ["dense", "act", "dense", "dense"]
    assert [op.w_id for op in work.operations] == [0, -1, 0, 0]


LAYER_NORM = [
    node("ReduceMean", "a", "mean", axes=[-1]),
    node("Sub", "a mean", "d"),
    node("Pow", "d two", "square"),
    node("ReduceMean", "square", "variance", axes=[-1]),
    node("Add", "variance eps", "shifted"),
    node("Sqrt", "shifted", "deviation"),
    node("Div", "d deviation", "n"),
    node("Mul", "n gamma", "scaled"),
    node("Add", "scaled beta", "z"),
]


def test_layer_norm_written_out_is_one_node(load):
    work = load(
        [node("Relu", "x", "a"), *LAYER_NORM, node("MatMul", "z w", "p"), node("Add", "p a", "y")],
        {"x": (2, 5, 8)},
        "y",
        {"w": (8, 8), "gamma": (8,), "beta": (8,)},
        SCALARS,
    )
    assert [op.kind for op in work.operations] == ["act", "norm", "dense"]
    norm, dense = work.operations[1:]
    assert (norm.macs, norm.bias_elems, norm.ofm) == (80, 16, (5, 1, 8))
    assert dense.parents == (Edge(1, 80), Edge(0, 80))


@pytest.mark.parametrize(
    ("op", "extra", "kind", "bias"),
    [
        ("LayerNormalization", "g b", "norm", 16),
        ("Softmax", "", "softmax", 0),
        ("LogSoftmax", "", "softmax", 0),
        ("LpNormalization", "", "norm", 0),
    ],
)
def test_normalizations_are_nodes(load, op, extra, kind, bias):
    work = load(
        [node("MatMul", "x w", "a"), node(op, f"a {extra}", "y")],
        {"x": (5, 8)},
        "y",
        {"w": (8, 8), "g": (8,), "b": (8,)},
    )
    assert shown(work)[f"{op}.y"] == (kind, ["MatMul.a"])
    assert (work.operations[1].macs, work.operations[1].bias_elems) == (40, bias)


def test_softmax_written_out_is_one_node(load):
    work = load(
        [
            node("MatMul", "x w", "a"),
            node("ReduceMax", "a", "m", axes=[-1]),
            node("Sub", "a m", "d"),
            node("Exp", "d", "e"),
            node("ReduceSum", "e last", "s"),
            node("Div", "e s", "y"),
        ],
        {"x": (5, 8)},
        "y",
        {"w": (8, 8)},
        {"last": np.array([-1])},
    )
    assert [op.kind for op in work.operations] == ["dense", "softmax"]


def test_attention(load):
    split = {"to": np.array([1, 6, 2, 4]), "back": np.array([1, 6, 8])}
    nodes = []
    for part, permutation in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", f"x w{part}", f"{part}1"),
            node("Add", f"{part}1 b{part}", f"{part}2"),
            node("Reshape", f"{part}2 to", f"{part}3"),
            node("Transpose", f"{part}3", f"{part}4", perm=permutation),
        ]
    nodes += [
        node("MatMul", "q4 k4", "s1"),
        node("Mul", "s1 half", "s2"),
        node("Add", "s2 mask", "s3"),
        node("Softmax", "s3", "s4"),
        node("MatMul", "s4 v4", "c1"),
        node("Transpose", "c1", "c2", perm=[0, 2, 1, 3]),
        node("Reshape", "c2 back", "c3"),
        node("MatMul", "c3 wo", "o1"),
        node("Add", "o1 x", "y"),
    ]
    work = load(
        nodes,
        {"x": (1, 6, 8), "mask": (1, 1, 1, 6)},
        "y",
        {f"w{part}": (8, 8) for part in "qkvo"} | {f"b{part}": (8,) for part in "qkv"},
        split | SCALARS,
    )
    assert shown(work) == {
        "MatMul.q1": ("dense", []),
        "MatMul.k1": ("dense", []),
        "MatMul.v1": ("dense", []),
        "MatMul.s1": ("matmul", ["MatMul.q1", "MatMul.k1"]),
        "Softmax.s4": ("softmax", ["MatMul.s1"]),
        "MatMul.c1": ("matmul", ["Softmax.s4", "MatMul.v1"]),
        "MatMul.o1": ("dense", ["MatMul.c1"]),
    }
    scores, context = work.operations[3], work.operations[5]
    assert (scores.macs, scores.ifm, scores.ofm, scores.batch) == (2 * 6 * 6 * 4, (6, 1, 4), (6, 1, 6), 2)
    assert (context.macs, context.ifm, context.ofm) == (2 * 6 * 6 * 4, (6, 1, 6), (6, 1, 4))
    assert scores.ext_in == 6  # the mask
    assert work.operations[-1].ext_in == 48


def test_products(load):
    work = load(
        [
            node("Gemm", "x w b", "a", transB=1),
            node("MatMul", "v a", "c"),
            node("Einsum", "c u", "y", equation="ij,kj->ik"),
        ],
        {"x": (6, 8)},
        "y",
        {"w": (5, 8), "b": (5,), "v": (3, 6), "u": (7, 5)},
    )
    assert [(op.kind, op.macs, op.w_elems) for op in work.operations] == [
        ("dense", 6 * 8 * 5, 40),
        ("dense", 3 * 6 * 5, 18),
        ("dense", 3 * 5 * 7, 35),
    ]
    assert [op.o_elems for op in work.operations] == [30, 15, 21]
    assert work.operations[0].bias_elems == 5


def test_einsum_of_two_activations(load):
    equation = "bqhd,bkhd->bhqk"
    work = load(
        [node("Einsum", "x x2", "y", equation=equation)], {"x": (2, 5, 3, 4), "x2": (2, 6, 3, 4)}, "y"
    )
    (op,) = work.operations
    assert (op.kind, op.macs, op.batch) == ("matmul", 2 * 3 * 5 * 6 * 4, 6)
    assert (op.ifm, op.ofm, op.ext_in) == ((5, 1, 4), (6 - 1, 1, 6), 120 + 144)


@pytest.mark.parametrize(
    ("made", "macs", "stride", "kernel"),
    [
        (node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2]), 9 * 9 * 3, (2, 2), (3, 3)),
        (node("AveragePool", "x", "y", kernel_shape=[8, 8]), 192, (0, 0), (8, 8)),
        (node("GlobalMaxPool", "x", "y"), 192, (0, 0), (8, 8)),
        (node("ReduceMean", "x", "y", axes=[2, 3]), 192, (0, 0), (8, 8)),
        (node("ReduceMean", "x", "y", axes=[-1, -2], keepdims=0), 192, (0, 0), (8, 8)),
    ],
)
def test_pooling(load, made, macs, stride, kernel):
    (op,) = load([made], IMAGE, "y").operations
    assert (op.kind, op.macs, op.stride, op.kernel, op.w_id) == ("pool", macs, stride, kernel, -1)
    assert op.ofm == ((3, 3, 3) if stride == (2, 2) else (1, 1, 3))


def test_an_activation_function_of_two_activations_joins_the_later(load):
    work = load(
        [node("Conv", "x w", "a"), node("Conv", "x v", "b"), node("PRelu", "a b", "y")],
        IMAGE,
        "y",
        {"w": (4, 3, 1, 1), "v": (4, 3, 1, 1)},
    )
    assert shown(work) == {"Conv.a": ("conv", []), "Conv.b": ("conv", ["Conv.a"])}


def test_a_second_output_that_is_read_counts(load):
    pool = onnx.helper.make_node(
        "MaxPool", ["x"], ["a", "i"], name="pool", kernel_shape=[2, 2], strides=[2, 2]
    )
    work = load(
        [pool, node("Relu", "a", "b"), node("MaxUnpool", "b i", "y", kernel_shape=[2, 2])], IMAGE, "y"
    )
    assert [op.kind for op in work.operations] == ["pool", "act", "layout"]
    assert work.operations[0].o_elems == 2 * 48
    assert work.operations[2].parents == (Edge(1, 48), Edge(0, 48))


def test_a_second_output_of_an_operator_that_vanishes_is_refused(load):
    drop = onnx.helper.make_node("Dropout", ["x"], ["a", "mask"], name="drop")
    with pytest.raises(ValueError, match=r"node 'drop' \(Dropout\): something reads its second output"):
        load([drop, node("Where", "mask a x", "y")], IMAGE, "y")


def test_views_vanish(load):
    work = load(
        [
            node("Dropout", "x", "a"),
            node("Reshape", "a to", "b"),
            node("Unsqueeze", "b first", "c"),
            node("Squeeze", "c first", "d"),
            node("Identity", "d", "e"),
            node("Transpose", "e", "f", perm=[1, 0]),
            node("Cast", "f", "g", to=1),
            node("Reshape", "g to", "g2"),
            node("Flatten", "g2", "h"),
            node("Gemm", "h w", "i"),
            node("Reshape", "i to2", "y"),
        ],
        {"x": (1, 2, 3, 4)},
        "y",
        {"w": (24, 5)},
        {"to": np.array([1, 24]), "first": np.array([0]), "to2": np.array([5, 1])},
    )
    assert [(op.kind, op.is_output, op.ext_in) for op in work.operations] == [("dense", True, 24)]


def test_layout_operations_read_and_write_but_compute_nothing(load):
    work = load(
        [
            node("Split", "x", "left right", axis=1),
            node("Relu", "left", "a"),
            node("Concat", "a right", "b", axis=1),
            node("Slice", "b from to channels", "c"),
            node("Pad", "c pads", "d"),
            node("Resize", "d - scales", "y", mode="nearest"),
        ],
        {"x": (1, 4, 8, 8)},
        "y",
        (),
        {
            "from": np.array([1]),
            "to": np.array([3]),
            "channels": np.array([1]),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "scales": np.array([1, 1, 2, 2], np.float32),
        },
    )
    assert [(op.kind, op.macs) for op in work.operations] == [
        ("layout", 0), ("act", 128), ("layout", 0), ("layout", 0), ("layout", 0), ("layout", 0)
    ]  # fmt: skip
    assert [op.parents for op in work.operations] == [
        (),
        (Edge(0, 128),),
        (Edge(1, 128), Edge(0, 128)),
        (Edge(2, 128),),  # of 256, a half
        (Edge(3, 128),),
        (Edge(4, 200),),
    ]
    assert [op.o_elems for op in work.operations] == [256, 128, 256, 128, 200, 800]
    assert work.operations[4].ofm == (10, 10, 2)


def test_a_transposition_that_something_else_reads_stays(load):
    work = load([node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Relu", "a", "y")], IMAGE, "y")
    assert shown(work) == {"Transpose.a": ("layout", []), "Relu.y": ("act", ["Transpose.a"])}
    assert work.operations[0].ofm == work.operations[1].ofm == (8, 8, 3)


def test_embedding_reads_rows_and_stores_the_table(load):
    work = load(
        [
            node("Cast", "x", "ids", to=INT64),
            node("Gather", "table ids", "a"),
            node("Gather", "a zero", "y", axis=1),
        ],
        {"x": (2, 7)},
        "y",
        {"table": (100, 16)},
        {"zero": np.array(0)},
    )
    table, first = work.operations
    assert (table.kind, table.macs, table.w_elems, table.w_reads, table.ext_in) == (
        "gather",
        0,
        1600,
        224,
        14,
    )
    assert (first.kind, first.parents) == ("layout", (Edge(0, 32),))


def test_tied_weights_are_stored_once(load):
    work = load(
        [
            node("MatMul", "x w", "a"),
            node("Transpose", "w", "t", perm=[1, 0]),
            node("MatMul", "a t", "b"),
            node("MatMul", "b v", "y"),
        ],
        {"x": (2, 8)},
        "y",
        {"w": (8, 4), "v": (8, 4)},
    )
    assert [op.w_id for op in work.operations] == [0, 0, 2]
    assert [op.w_elems for op in work.operations] == [32, 32, 32]


def test_quantized_files(load):
    work = load(
        [
            node("QuantizeLinear", "x s z", "a"),
            node("DequantizeLinear", "a s z", "b"),
            node("DequantizeLinear", "wq s z", "w"),
            node("Conv", "b w", "c"),
            node("QuantizeLinear", "c s z", "d"),
            node("DequantizeLinear", "d s z", "e"),
            node("Relu", "e", "y"),
        ],
        IMAGE,
        "y",
        (),
        {"s": np.float32(0.1), "z": np.int8(0), "wq": np.zeros((4, 3, 1, 1), np.int8)},
    )
    assert [(op.kind, op.w_elems) for op in work.operations] == [("conv", 12)]


def test_shapes_that_the_file_computes(load):
    """What exporters write for x.reshape(x.shape[0], -1, x.shape[1] // 2): arithmetic on shapes."""
    work = load(
        [
            node("Relu", "x", "a"),
            node("Shape", "a", "shape"),
            node("Gather", "shape zero", "n"),
            node("Gather", "shape one", "c"),
            node("Cast", "c", "cf", to=1),
            node("Div", "cf twof", "half"),
            node("Cast", "half", "h", to=INT64),
            node("Mod", "h hundred", "hm"),
            node("Unsqueeze", "n axis", "n1"),
            node("Unsqueeze", "hm axis", "h1"),
            node("Concat", "n1 rest h1", "to", axis=0),
            node("Reshape", "a to", "r"),
            node("MatMul", "r w", "y"),
        ],
        {"x": (2, 8, 3, 3)},
        "y",
        {"w": (4, 5)},
        {
            "zero": np.array(0), "one": np.array(1), "axis": np.array([0]), "rest": np.array([-1]),
            "twof": np.float32(2), "hundred": np.array(100),
        },
    )  # fmt: skip
    assert [op.kind for op in work.operations] == ["act", "dense"]
    assert work.operations[1].ofm == (18, 1, 5)


def test_open_batch_and_named_shapes(load):
    nodes = [node("MatMul", "x w", "a"), node("Add", "a x2", "y")]
    weights = {"w": (8, 8)}
    assert load(nodes, {"x": ("N", 8), "x2": ("N", 8)}, "y", weights, batch=3).operations[0].batch == 3
    shaped = load(nodes, {"x": ("N", 8), "x2": ("N", 8)}, "y", weights, shapes={"x": (5, 8)})
    assert shaped.operations[0].batch == 5
    assert load(nodes, {"x": (3, 8), "x2": (3, 8)}, "y", weights, batch=3).operations[0].macs == 192
    both = load(nodes, {"x": ("N", "D"), "x2": (None, 8)}, "y", weights, batch=2, shapes={"x": (2, 8)})
    assert both.operations[0].macs == 128


def test_local_functions_are_inlined(load):
    function = onnx.helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [onnx.helper.make_opsetid("", 17)]
    )
    work = load(
        [onnx.helper.make_node("Twice", ["x"], ["y"], domain="local")], IMAGE, "y", functions=[function]
    )
    assert [op.kind for op in work.operations] == ["add"]


def test_nodes_without_a_name_and_with_the_same_name(load):
    nodes = [
        node("Relu", "x", "a"),
        node("MaxPool", "a", "b", kernel_shape=[2, 2]),
        node("MaxPool", "b", "y", kernel_shape=[2, 2]),
    ]
    nodes[0].name = ""
    nodes[1].name = nodes[2].name = "pool"
    assert [op.name for op in load(nodes, IMAGE, "y").operations] == ["a", "pool", "pool_2"]


def test_what_no_output_needs_is_left_out(load):
    work = load([node("Relu", "x", "y"), node("Exp", "x", "unused")], IMAGE, "y")
    assert len(work.operations) == 1


def test_an_operator_that_is_not_known_can_count_per_element(load):
    odd = onnx.helper.make_node("Odd", ["a"], ["b"], name="odd", domain="local")
    nodes = [node("Conv", "x w", "a"), odd, node("Conv", "b w2", "y")]
    weights = {"w": (4, 3, 1, 1), "w2": (5, 4, 1, 1)}
    work = load(nodes, IMAGE, "y", weights, unknown="elementwise")
    assert shown(work)["odd"] == ("other", ["Conv.a"])
    assert work.operations[1].macs == 256
    assert work.operations[2].ofm == (8, 8, 5)
    with pytest.raises(ValueError, match=r"node 'odd' \(Odd\): operator local.Odd is not known"):
        load(nodes, IMAGE, "y", weights)
