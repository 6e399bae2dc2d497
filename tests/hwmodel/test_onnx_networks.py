"""Networks that other people wrote as ONNX files: node, weight and MAC counts, and agreement with the tables.

The nine files of the onnx wheel have no weights but real topologies. Counts are of a separate script that
reads the convolutions and fully connected layers of the files alone.
"""

import collections
import dataclasses
from pathlib import Path

import pytest

from hwmodel import zoo
from hwmodel.onnx_import.read import from_onnx
from hwmodel.workload_file import load_workload, save_workload

onnx = pytest.importorskip("onnx")
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

# file: convolutions, operations, MACs of convolutions and dense layers, their weights
EXPECTED = {
    "resnet50": (53, 57, 4_089_184_256, 25_502_912),
    "squeezenet": (26, 39, 349_151_936, 1_231_552),
    "vgg19": (16, 25, 19_632_062_464, 143_652_544),
    "inception_v1": (57, 84, 1_431_556_352, 6_990_272),
}


def light(name, **options):
    return from_onnx(LIGHT / f"light_{name}.onnx", **options)


def kinds(work):
    return collections.Counter(op.kind for op in work.operations)


def layers(work):
    return [op for op in work.operations if op.kind in ("conv", "dwconv", "dense")]


def plain_counts(name):
    """(convolutions, MACs, weights), from shape inference and the definitions of Conv and Gemm alone."""
    model = onnx.shape_inference.infer_shapes(onnx.load(LIGHT / f"light_{name}.onnx"), data_prop=True)
    infos = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    shape = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}
    convolutions = macs = weights = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            y, w = shape[node.output[0]], shape[node.input[1]]
            rows = y[0]
            size = 1
            for n in w:
                size *= n
            if node.op_type == "Conv":
                convolutions += 1
                rows *= y[2] * y[3]
            macs += rows * size
            weights += size
    return convolutions, macs, weights


@pytest.mark.parametrize("name", EXPECTED)
def test_published_counts(name):
    convolutions, operations, macs, weights = EXPECTED[name]
    work = light(name)
    assert kinds(work)["conv"] == convolutions
    assert len(work.operations) == operations
    assert sum(op.macs for op in layers(work)) == macs
    assert work.column("w_elems").sum() == weights


@pytest.mark.parametrize("path", sorted(LIGHT.glob("light_*.onnx")), ids=lambda path: path.stem)
def test_every_light_network_against_a_plain_count(path):
    work = from_onnx(path)
    name = path.stem.removeprefix("light_")
    convolutions, macs, weights = plain_counts(name)
    assert kinds(work)["conv"] + kinds(work)["dwconv"] == convolutions
    assert sum(op.macs for op in layers(work)) == macs
    assert sum(op.w_elems for op in layers(work)) == weights
    assert [op.name for op in work.operations if op.is_output] == [work.operations[-1].name]
    assert sum(bool(op.ext_in) for op in work.operations) == 1


def test_small_models_of_the_wheel_are_read_or_refused_by_name():
    """Modules and functions that PyTorch exported, one or a few operators each."""
    read, refused = 0, []
    for path in sorted(LIGHT.parent.glob("*/*/model.onnx")):
        try:
            read += len(from_onnx(path).operations) > 0
        except ValueError as error:
            refused.append(str(error))
    assert read >= 100
    reasons = ("is not known", "no operations", "dynamic shape", "second output", "control flow")
    assert [text for text in refused if not any(reason in text for reason in reasons)] == []


def anonymous(work):
    return [dataclasses.replace(op, name="") for op in work.operations]


def test_resnet50_is_the_table():
    assert anonymous(light("resnet50")) == anonymous(zoo.resnet50())


def test_densenet_folds_its_batch_norms():
    work = light("densenet121")
    # 121 batch norms: those after a convolution that nothing else reads vanish into it, those after a
    # concatenation, whose output the next one reads, too, stay
    assert kinds(work) == {"conv": 121, "pool": 5, "norm": 62, "layout": 58}
    assert {op.name for op in work.operations if op.kind == "act"} == set()


def test_inception_v2_folds_its_batch_norms():
    assert kinds(light("inception_v2")) == {"conv": 69, "pool": 13, "layout": 10, "dense": 1, "softmax": 1}


def test_shufflenet_shuffles_channels_by_layout():
    work = light("shufflenet")
    # 16 shuffles, 3 concatenations with a ReLU behind that stays
    assert kinds(work) == {
        "conv": 33, "dwconv": 16, "pool": 5, "layout": 16 + 3, "act": 3, "dense": 1, "softmax": 1
    }  # fmt: skip
    shuffle = next(op for op in work.operations if op.kind == "layout")
    assert shuffle.macs == 0
    assert shuffle.o_elems == shuffle.parents[0].elems


def test_local_response_normalization_is_a_node():
    assert kinds(light("bvlc_alexnet")) == {"conv": 5, "norm": 2, "pool": 3, "dense": 3, "softmax": 1}
    assert [op.groups for op in layers(light("bvlc_alexnet"))][:5] == [1, 2, 1, 2, 2]


def test_without_fusion_every_node_stays():
    work = light("resnet50", fusion=False)
    assert kinds(work) == {"conv": 53, "norm": 53, "act": 49, "pool": 2, "add": 16, "dense": 1, "softmax": 1}
    fused = light("resnet50")
    assert sum(op.macs for op in layers(work)) == sum(op.macs for op in layers(fused))


def test_an_imported_network_can_be_stored(tmp_path):
    work = light("squeezenet")
    save_workload(tmp_path / "work.json", work)
    assert load_workload(tmp_path / "work.json").operations == work.operations


def zigzag_file(name):
    zigzag = pytest.importorskip("zigzag", reason="zigzag-dse is a bench extra")
    return Path(zigzag.__file__).parent / "inputs/workload" / name


def test_zigzag_mobilenet_v2_is_the_table_but_for_the_softmax():
    found, table = from_onnx(zigzag_file("mobilenetv2.onnx")), zoo.mobilenet_v2()
    expected = anonymous(table)[:-1]
    expected[-1] = dataclasses.replace(expected[-1], is_output=True)
    assert anonymous(found) == expected


def test_zigzag_resnet18_and_alexnet():
    resnet = from_onnx(zigzag_file("resnet18.onnx"))
    assert kinds(resnet) == {"conv": 20, "pool": 2, "dense": 1}
    assert sum(op.macs for op in layers(resnet)) == 1_814_073_344
    assert kinds(from_onnx(zigzag_file("alexnet.onnx")))["conv"] == 5
