"""ONNX files that are broken, hostile or beyond what can be read: one clear line each, nothing opened."""

import builtins
import math
import sys

import numpy as np
import pytest

from hwmodel.onnx_import.read import from_onnx

onnx = pytest.importorskip("onnx")
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def node(op, inputs, output, **attributes):
    return onnx.helper.make_node(op, inputs.split(), [output], name=f"{op}.{output}", **attributes)


def model(nodes, shape=(1, 3, 8, 8), stored=(), outputs="y"):
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info("x", FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in outputs.split()],
        list(stored),
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


def weight(name="w", shape=(4, 3, 1, 1)):
    return onnx.helper.make_tensor(name, FLOAT, shape, np.zeros(math.prod(shape)))


def claimed(shape, name="w", kind=FLOAT):
    """A tensor that says it has a shape, and has no data."""
    tensor = onnx.TensorProto(name=name, data_type=kind)
    tensor.dims.extend(shape)
    return tensor


def refusal(path, content, **options):
    if not isinstance(content, bytes):
        content = content.SerializeToString()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name) as caught:
        from_onnx(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


CONV = model([node("Conv", "x w", "y")], stored=[weight()])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"not a network", b"\x80\x04\x95pickle", b"PK\x03\x04zip"]
)
def test_not_onnx(path, content):
    assert "is not an ONNX" in refusal(path, content)


def test_every_truncation(path):
    whole = CONV.SerializeToString()
    for end in range(len(whole)):
        refusal(path, whole[:end])


def test_bytes_changed_at_random(path):
    """No crash, no other error: a changed file is refused or still a network."""
    whole = np.frombuffer(CONV.SerializeToString(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = whole.copy()
        broken[rng.integers(len(broken), size=3)] = rng.integers(256, size=3)
        path.write_bytes(broken.tobytes())
        try:
            lines = len(from_onnx(path).operations)
        except ValueError as error:
            lines = len(str(error).splitlines())
        assert lines == 1


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("N", 3, 8, 8), {}, r"input 'x' has the dynamic shape ('N', 3, 8, 8); give batch="),
        ((None, 3, 8, 8), {}, r"input 'x' has the dynamic shape ('?', 3, 8, 8)"),
        ((1, 3, "H", "W"), {"batch": 2}, "batch is 2, but no input has an open leading dimension"),
        (("N", 3, "H", "W"), {"batch": 2}, "input 'x' has the dynamic shape (2, 3, 'H', 'W')"),
        ((1, 3, 8, 8), {"batch": 2}, "batch is 2, but no input has an open leading dimension"),
        ((0, 3, 8, 8), {}, "input 'x' has the dynamic shape (0, 3, 8, 8)"),
        ((-1, 3, 8, 8), {}, "input 'x' has the dynamic shape (-1, 3, 8, 8)"),
        (("N", 3, 8, 8), {"shapes": {"x": (1, 3, 9, 9)}}, "shapes gives (1, 3, 9, 9) for input 'x', but"),
        (("N", 3, 8, 8), {"shapes": {"x": (1, 3)}}, "shapes gives (1, 3) for input 'x', but"),
        (("N", 3, 8, "N"), {"shapes": {"x": (1, 3, 8, 8)}}, "dimension 'N' is 8 here, 1 elsewhere"),
        (("N", 3, 8, 8), {"shapes": {"z": (1,)}}, "shapes names 'z', which is no input; there are x"),
        (None, {}, "input 'x' is no tensor of known rank"),
    ],
)
def test_dynamic_shapes(path, shape, options, message):
    content = model([node("Conv", "x w", "y")], shape, [weight()])
    assert message in refusal(path, content, **options)


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"batch": True - 2}, {"shapes": {"x": (0,)}}, {"batch": 2**40}]
)
def test_impossible_sizes(path, options):
    with pytest.raises(ValueError, match=r"must be whole numbers of \[1, 2\^31\)"):
        from_onnx(path, **options)


def test_a_rank_that_the_file_leaves_open_can_be_given(path):
    onnx.save(model([node("Conv", "x w", "y")], None, [weight()]), path)
    assert from_onnx(path, shapes={"x": (2, 3, 4, 4)}).operations[0].batch == 2


BRANCH = onnx.helper.make_graph([], "branch", [], [])
CYCLE = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
TWICE = [node("Relu", "x", "y"), node("Exp", "x", "y")]
INPUT = [node("Relu", "y", "x"), node("Relu", "x", "y")]
BAD = {
    "cycle": (model(CYCLE), "form a cycle: 'Add.a' -> 'Relu.b' -> 'Add.a'"),
    "nothing makes": (model([node("Add", "x z", "y")]), "node 'Add.y' (Add) reads 'z', which nothing makes"),
    "made twice": (model(TWICE), "makes 'y', which something else"),
    "makes an input": (model(INPUT), "makes 'x', which something else"),
    "no output": (model([node("Relu", "x", "")]), "has no output"),
    "output missing": (model([node("Relu", "x", "z")]), "output 'y' is made by no node"),
    "output constant": (model([node("Relu", "w", "y")], stored=[weight()]), "output 'y' depends on no input"),
    "only views": (model([node("Identity", "x", "y")]), "the graph has no operations"),
    "unknown": (model([node("Magic", "x", "y")]), "node 'Magic.y' (Magic): operator Magic is not known"),
    "control": (
        model([node("If", "x", "y", then_branch=BRANCH, else_branch=BRANCH)]),
        "node 'If.y' (If) is control flow",
    ),
    "channels": (
        model([node("Conv", "x w", "y")], stored=[weight(shape=(4, 5, 1, 1))]),
        "1 groups do not fit 3 channels and a kernel of (4, 5, 1, 1)",
    ),
    "groups": (model([node("Conv", "x w", "y", group=2)], stored=[weight()]), "2 groups do not fit"),
    "no operand": (model([onnx.helper.make_node("Conv", ["x"], ["y"], name="c")]), "node 'c' (Conv)"),
    "rank": (model([node("Conv", "x w", "y")], (1, 3), [weight(shape=(4, 3))]), "node 'Conv.y' (Conv)"),
    "product": (model([node("MatMul", "x w", "y")], stored=[weight(shape=(5, 5))]), "node 'MatMul.y'"),
    "data dependent": (
        model([node("NonZero", "x", "n"), node("Cast", "n", "y", to=1)]),
        "node 'NonZero.n' (NonZero): operator NonZero is not known",
    ),
    "computed shape": (
        model([node("Cast", "x", "s", to=INT64), node("Reshape", "x s", "y")], (2,)),
        "node 'Reshape.y' (Reshape): the shape of 'y' is not known",
    ),
    "negative shape": (
        model([node("Conv", "x w", "y")], stored=[claimed((4, -3, 1, 1))]),
        "constant 'w' has the impossible shape (4, -3, 1, 1)",
    ),
    "huge weight": (
        model([node("MatMul", "x w", "y")], (1, 2**40), [claimed((2**40, 2**40))]),
        "has a count above 2^53",
    ),
    "huge input": (model([node("Relu", "x", "y")], (2**60, 2**60)), "has a count above 2^53"),
    "short data": (
        model([node("Reshape", "x to", "y")], stored=[claimed((4,), "to", INT64)]),
        "constant 'to' of shape (4,) cannot be read",
    ),
    "no type": (model([node("Conv", "x w", "y")], stored=[claimed((4, 3, 1, 1), kind=0)]), "constant 'w'"),
    "einsum": (
        model([node("Einsum", "x x", "y", equation="...ij,...jk->...ik")]),
        "from_onnx knows products of two with all indices named",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused(path, case):
    content, message = BAD[case]
    assert message in refusal(path, content)


def test_an_output_that_is_an_input_needs_no_operation(path):
    content = model([node("Conv", "x w", "y")], stored=[weight()])
    onnx.save(content, path)
    alone = from_onnx(path)
    content.graph.output.append(content.graph.input[0])
    content.graph.node.append(node("Identity", "x", "view"))
    content.graph.output.append(onnx.helper.make_tensor_value_info("view", FLOAT, None))
    onnx.save(content, path)
    assert from_onnx(path).operations == alone.operations
    assert from_onnx(path, shapes={"x": (1, 3, 8, 8)}).operations == alone.operations
    for info in (content.graph.input[0], content.graph.output[1]):
        info.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(content, path)
    assert from_onnx(path, batch=1).operations == alone.operations
    content.graph.output[1].type.tensor_type.ClearField("shape")
    onnx.save(content, path)
    assert from_onnx(path, batch=1).operations == alone.operations


def test_nodes_in_another_order_are_sorted(path):
    onnx.save(model([node("Exp", "a", "y"), node("Conv", "x w", "a")], stored=[weight()]), path)
    assert [op.kind for op in from_onnx(path).operations] == ["conv"]


def test_weights_beside_the_file_are_not_opened(path, monkeypatch):
    """A location outside the folder is a classic; a missing one shows that nothing looks for it."""
    outside = claimed((400, 3, 1, 1))
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../../../etc/passwd")
    small = claimed((4,), "b")
    small.data_location = onnx.TensorProto.EXTERNAL
    small.external_data.add(key="location", value="missing.bin")
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "c"), node("Conv", "c w2 b", "y")]
    path.write_bytes(model(nodes, stored=[outside, small, weight("w2", (4, 400, 1, 1))]).SerializeToString())
    opened = []
    plain = builtins.open

    def watched(file, *args, **kwargs):
        opened.append(str(file))
        return plain(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watched)
    work = from_onnx(path)
    assert [op.w_elems for op in work.operations] == [1200, 1600]
    assert set(opened) <= {str(path)}


def test_external_data_of_a_constant_node_is_not_opened(path):
    tensor = claimed((4, 3, 1, 1), "inner")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    content = model([node("Constant", "", "w", value=tensor), node("Conv", "x w", "y")])
    path.write_bytes(content.SerializeToString())
    assert from_onnx(path).operations[0].w_elems == 12


def test_a_claimed_size_is_not_allocated(path):
    """2^46 elements in a constant that the file only describes."""
    fill = node("ConstantOfShape", "size", "w")
    size = onnx.helper.make_tensor("size", INT64, (2,), [2**23, 2**23])
    onnx.save(model([fill, node("MatMul", "x w", "y")], (1, 2**23), [size]), path)
    assert from_onnx(path).operations[0].w_elems == 2**46


def test_a_file_above_two_gigabytes_is_not_read(path):
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(ValueError, match="stay below 2 GiB"):
        from_onnx(path)


def test_a_wrong_option(path):
    with pytest.raises((ValueError, TypeError), match="unknown"):
        from_onnx(path, unknown="guess")


def test_without_the_package(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'frugaljax\[onnx\]'"):
        from_onnx(path)
