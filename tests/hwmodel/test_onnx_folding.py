"""Arithmetic on shapes, operator by operator, against the reference implementation of the onnx package."""

import numpy as np
import pytest

from hwmodel.onnx_import.folding import SMALL, fold_constants
from hwmodel.onnx_import.model import Node

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")

INTS = np.array([7, -3, 0, 12, -8])
OTHER = np.array([2, 2, 3, -5, 3])
TABLE = np.arange(24).reshape(2, 3, 4) - 7
FLOATS = np.array([2.25, 0.5, 9.0, 100.0, 3.0], np.float32)
AXIS, BOOLS = np.array([1]), np.array([True, False, True, True, False])

CASES = [
    ("Identity", [INTS], {}),
    ("Cast", [FLOATS], {"to": 7}),
    ("Cast", [INTS], {"to": 1}),
    ("Cast", [INTS], {"to": 9}),
    ("Gather", [TABLE, np.array([1, 0, -1])], {"axis": 2}),
    ("Gather", [INTS, np.array(3)], {}),
    ("Concat", [INTS, OTHER], {"axis": 0}),
    ("Concat", [TABLE, TABLE], {"axis": -1}),
    ("Slice", [INTS, np.array([1]), np.array([4])], {}),
    ("Slice", [INTS, np.array([-1]), np.array([-10]), np.array([0]), np.array([-2])], {}),
    ("Slice", [TABLE, np.array([0, 1]), np.array([9, 3]), np.array([2, 1])], {}),
    ("Slice", [INTS, np.array([1]), np.array([2**63 - 1])], {}),
    ("Unsqueeze", [TABLE, np.array([0, -1])], {}),
    ("Squeeze", [TABLE[:1], np.array([0])], {}),
    ("Squeeze", [TABLE[:1]], {}),
    ("Reshape", [TABLE, np.array([0, -1, 2])], {}),
    ("Expand", [INTS, np.array([3, 1])], {}),
    ("ConstantOfShape", [np.array([2, 3])], {}),
    ("Range", [np.array(3), np.array(20), np.array(4)], {}),
    ("Range", [np.array(3), np.array(-20), np.array(-4)], {}),
    ("Add", [INTS, OTHER], {}),
    ("Sub", [INTS, OTHER], {}),
    ("Mul", [INTS, OTHER], {}),
    ("Div", [FLOATS, OTHER.astype(np.float32)], {}),
    ("Mod", [INTS, OTHER], {}),
    ("Mod", [INTS, OTHER], {"fmod": 1}),
    ("Min", [INTS, OTHER], {}),
    ("Max", [INTS, OTHER, np.array(3)], {}),
    ("Neg", [INTS], {}),
    ("Abs", [INTS], {}),
    ("Sqrt", [FLOATS], {}),
    ("Floor", [FLOATS], {}),
    ("Ceil", [FLOATS], {}),
    ("Equal", [INTS, OTHER], {}),
    ("Less", [INTS, OTHER], {}),
    ("Greater", [INTS, OTHER], {}),
    ("Not", [BOOLS], {}),
    ("And", [BOOLS, ~BOOLS], {}),
    ("Or", [BOOLS, ~BOOLS], {}),
    ("Where", [BOOLS, INTS, OTHER], {}),
    ("ReduceProd", [TABLE], {"keepdims": 0}),
    ("ReduceProd", [TABLE, AXIS], {}),
    ("ReduceSum", [TABLE, AXIS], {"keepdims": 0}),
    ("ReduceMin", [TABLE, AXIS], {}),
    ("ReduceMax", [TABLE], {}),
]


def folded(op, arrays, attributes):
    names = tuple(f"i{j}" for j in range(len(arrays)))
    node = Node(op, op, "", names, ("y",), attributes)
    return fold_constants([node], {"y"}, {}, dict(zip(names, map(np.asarray, arrays), strict=True))).get("y")


@pytest.mark.parametrize(("op", "arrays", "attributes"), CASES, ids=[case[0] for case in CASES])
def test_against_the_reference(op, arrays, attributes):
    node = onnx.helper.make_node(op, [f"i{j}" for j in range(len(arrays))], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(
                f"i{j}", onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
            )
            for j, a in enumerate(arrays)
        ],
        [onnx.helper.make_tensor_value_info("y", 0, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    evaluator = reference.ReferenceEvaluator(model)
    (expected,) = evaluator.run(None, {f"i{j}": a for j, a in enumerate(arrays)})
    found = folded(op, arrays, attributes)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape


def test_whole_numbers_are_divided_towards_zero():
    np.testing.assert_array_equal(folded("Div", [INTS, OTHER], {}), [3, -1, 0, -2, -2])


def test_old_operators_have_their_axes_as_attributes():
    np.testing.assert_array_equal(folded("Slice", [INTS], {"starts": [1], "ends": [3]}), INTS[1:3])
    assert folded("Unsqueeze", [INTS], {"axes": [0]}).shape == (1, 5)
    assert folded("Squeeze", [TABLE[:1]], {"axes": [0]}).shape == (3, 4)


def test_shape_and_size_come_from_inference():
    nodes = [
        Node("shape", "Shape", "", ("x",), ("s",), {}),
        Node("part", "Shape", "", ("x",), ("p",), {"start": 1, "end": -1}),
        Node("size", "Size", "", ("x",), ("n",), {}),
        Node("sum", "Add", "", ("s", "n"), ("y",), {}),
        Node("later", "Shape", "", ("unknown",), ("z",), {}),
    ]
    found = fold_constants(nodes, {"s", "p", "n", "y", "z"}, {"x": (2, 3, 4)}, {})
    assert {name: value.tolist() for name, value in found.items()} == {
        "s": [2, 3, 4], "p": [3], "n": 24, "y": [26, 27, 28]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"),
    [
        ("ConstantOfShape", [np.array([2**40, 2**20])], {}),
        ("Range", [np.array(0), np.array(2**60), np.array(1)], {}),
        ("Range", [np.array(0), np.array(5), np.array(0)], {}),
        ("Expand", [INTS, np.array([2**40, 1])], {}),
        ("Concat", [np.zeros(SMALL), np.zeros(1)], {"axis": 0}),
        ("Gather", [INTS, np.array([99])], {}),
        ("Reshape", [INTS, np.array([2, 2])], {}),
        ("Cast", [INTS], {"to": 16}),
        ("Concat", [INTS, OTHER], {}),
        ("Slice", [INTS], {}),
        ("Mod", [INTS], {}),
        ("Loop", [INTS], {}),
    ],
)
def test_what_is_large_or_broken_stays_unknown(op, arrays, attributes):
    assert folded(op, arrays, attributes) is None
