"""What stands in an ONNX file beside the nodes, what is refused, and a real network."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nemojax as nemo
from hwmodel import from_onnx
from nemojax.calibration import QuantizerConfig
from nemojax.configuration import Configuration
from nemojax.export import export_onnx
from nemojax.interpreter import execute
from nemojax.quantizers import fake_quantize

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

X = ref.draw(0, (3, 6, 4))


def dense(p, x):
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ p["w"]) @ p["v"] + p["b"][None]


PARAMS = {"w": ref.kernel(1, 24, 8), "v": ref.kernel(2, 8, 5), "b": ref.draw(3, (5,))}


@pytest.fixture(scope="module")
def network():
    return ref.network(dense, PARAMS, X)


def test_its_metadata_say_where_it_comes_from(network, tmp_path):
    names = network.workload.point_names
    chosen = Configuration(np.array([8, 4, 6, 3]), names, {"error": 0.25})
    report = export_onnx(tmp_path / "net.onnx", network, chosen, opset=22)
    model = onnx.load(tmp_path / "net.onnx")
    props = {p.key: p.value for p in model.metadata_props}
    assert json.loads(props["bits"]) == chosen.as_dict()
    assert (props["network"], props["weights_source"]) == ("net", "drawn")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", props["frugaljax"])
    assert (model.producer_name, model.opset_import[0].version) == ("frugaljax", 22)
    assert (report.opset, report.inputs, report.path) == (22, ("input",), str(tmp_path / "net.onnx"))
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    assert [q.point for q in report.quantizers] == ["input", "w.weight", "w.activation", "v.weight"]
    for line in ("w.weight", "4", "int4"):
        assert line in report.table()


def test_full_precision_holds_no_quantizer(network, tmp_path):
    bits = np.full(4, 4)
    report = export_onnx(tmp_path / "net.onnx", network, bits, quantized=False)
    assert not report.quantizers
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(report.nodes)
    assert (
        ref.difference(ref.run(tmp_path / "net.onnx", network, X, True), np.asarray(dense(PARAMS, X))) < 1e-5
    )
    props = {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert set(json.loads(props["bits"]).values()) == {4}


def test_inputs_keep_their_names_and_types(tmp_path):
    def fn(p, inputs):
        return jnp.where(inputs["mask"][:, :, None], inputs["text"]["x"], 0.0).max(1) @ p["v"]

    inputs = {"mask": np.array([[True] * 6, [True] * 3 + [False] * 3]), "text": {"x": X[:2]}}
    net = ref.network(fn, {"v": ref.kernel(0, 4, 5)}, inputs)
    export_onnx(tmp_path / "net.onnx", net, np.full(len(net.workload.points), 8))
    session = ref.session(tmp_path / "net.onnx", True)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("mask", "tensor(bool)", ["N", 6]),
        ("text/x", "tensor(float)", ["N", 6, 4]),
    ]


def test_equal_weights_are_stored_once(tmp_path):
    """A table that is also the last layer's kernel, transposed, and a layer that is run twice."""

    def fn(p, ids):
        x = p["table"][ids]
        for _ in range(2):
            x = jax.nn.relu(x @ p["w"])
        return x.mean(1) @ p["table"].T

    ids = np.random.default_rng(0).integers(0, 50, (3, 4)).astype(np.int32)
    params = {"table": ref.kernel(0, 50, 24), "w": ref.kernel(1, 24, 24)}
    net = ref.network(fn, params, ids, QuantizerConfig(per_channel=False))
    for b, stored in ((8, 1), (32, 4)):
        bits = np.full(len(net.workload.points), b)
        report = export_onnx(tmp_path / "net.onnx", net, bits)
        assert stored * (2 * 50 * 24 + 24 * 24) < report.bytes < stored * (2 * 50 * 24 + 24 * 24) + 6000
        assert ref.difference(ref.run(tmp_path / "net.onnx", net, ids), ref.logits(net, bits, ids)) < 1e-5


def scattered(p, x):
    """Two kinds of primitives without an ONNX form, one of them three times."""
    for _ in range(3):
        x = lax.atan2(x, x + 2.0)
    x = x.at[:, 1].set(0.5)
    return dense(p, x)


def test_all_that_is_unsupported_is_named_at_once(tmp_path):
    net = ref.network(scattered, PARAMS, X)
    place = tmp_path / "net.onnx"
    place.write_bytes(b"an older file")
    with pytest.raises(ValueError, match="cannot be exported to ONNX") as error:
        export_onnx(place, net, np.full(len(net.workload.points), 8))
    text = str(error.value)
    first = scattered.__code__.co_firstlineno
    assert "\n" not in text
    assert f"atan2 at {__file__}:{first + 3} (it has no ONNX form here; 3 times)" in text
    assert f"scatter at {__file__}:{first + 4} (it has no ONNX form here)" in text
    assert "for 2 kinds of equations" in text
    assert place.read_bytes() == b"an older file"
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda p, x: dense(p, lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0)))[:, :6]), "pad between"),
        (lambda p, x: dense(p, lax.rev(x, (0,))), "a slice of the batch: give batch=a number"),
        (lambda p, x: dense(p, x - x.mean(0, keepdims=True)), "a constant depends on the size of the batch"),
        (lambda p, x: dense(p, lax.dynamic_slice_in_dim(x, x.sum().astype(jnp.int32), 6, 1)), None),
        (
            lambda p, x: dense(p, jnp.concatenate([x, x], 1).at[:, :6].get() + lax.dynamic_slice(
                jnp.concatenate([x, x], 1), (0, jnp.argmax(x[0, :, 0]), 0), x.shape)),
            "a slice at a computed place",
        ),
    ],
)  # fmt: skip
def test_uses_that_are_unsupported_say_why(fn, reason, tmp_path):
    net = ref.network(fn, PARAMS, X)
    if reason is None:  # it can be written
        export_onnx(tmp_path / "net.onnx", net)
        assert (
            ref.difference(ref.run(tmp_path / "net.onnx", net, X), ref.logits(net, np.full(4, 32), X)) < 1e-5
        )
        return
    with pytest.raises(ValueError, match=reason):
        export_onnx(tmp_path / "net.onnx", net)
    assert not list(tmp_path.iterdir())


def test_a_fixed_batch_may_be_sliced(tmp_path):
    def fn(p, x):
        return dense(p, lax.rev(x, (0,)) + jnp.arange(x.shape[0], dtype=jnp.float32)[:, None, None])

    net = ref.network(fn, PARAMS, X)
    with pytest.raises(ValueError, match="a constant differs from sample to sample: give batch=a number"):
        export_onnx(tmp_path / "net.onnx", net)
    export_onnx(tmp_path / "net.onnx", net, batch=3)
    assert ref.difference(ref.run(tmp_path / "net.onnx", net, X), np.asarray(fn(PARAMS, X))) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 17}, "opset must be 18 to "),
        ({"opset": 999}, "opset must be 18 to "),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": "two words"}, "batch must be a number or a name"),
        ({"bits": np.full(3, 8)}, "bits must have one column for each of 4 names"),
        ({"bits": {"input": 8}}, "bits lack 'w.weight' and 2 more of this network"),
        ({"bits": np.array([8, 8, 17, 8])}, "bits of 'w.activation' in row 0 are 17"),
        ({"bits": np.full(4, 8.0)}, "bits must be whole numbers"),
        ({"path": "missing/net.onnx"}, "missing/net.onnx: cannot be written"),
    ],
)
def test_wrong_arguments_are_refused(network, arguments, message, tmp_path):
    arguments = {"path": str(tmp_path / "net.onnx"), **arguments}
    path, bits = arguments.pop("path"), arguments.pop("bits", None)
    with pytest.raises(ValueError, match=re.escape(message)):
        export_onnx(path, network, bits, **arguments)
    assert not list(tmp_path.iterdir())


def test_what_the_checker_refuses_is_a_value_error(network, tmp_path, monkeypatch):
    for kind in (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):

        def refuse(*_, kind=kind, **__):
            raise kind("Unrecognized attribute\nin node 3")

        with monkeypatch.context() as patch:
            patch.setattr(onnx.checker, "check_model", refuse)
            told = r"'net' has no valid ONNX graph of opset 21 \(Unrecognized attribute in node 3\)"
            with pytest.raises(ValueError, match=told):
                export_onnx(tmp_path / "net.onnx", network)
        assert not list(tmp_path.iterdir())


def test_without_onnx_it_says_what_to_install(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'frugaljax\[onnx\]'"):
        export_onnx(tmp_path / "net.onnx", network)


def test_unknown_quantizers_are_named(network, tmp_path):
    bits = dict.fromkeys(network.workload.point_names, 8)
    with pytest.raises(ValueError, match="bits name 'other', which this network lacks"):
        export_onnx(tmp_path / "net.onnx", network, bits | {"other": 8})


def levels(net, bits, images):
    """point -> the tensor behind its quantizer, and the logits: ours."""
    work, rows, seen = net.traced.workload(len(images)), np.minimum(bits, 16), {}
    folded = net._quantized_weights(jnp.asarray(bits, jnp.int32), jnp.asarray(rows), False)
    low, high = (end[np.arange(len(rows)), rows] for end in (net.ranges.low, net.ranges.high))

    def quantize(i, x):
        point = work.points[i]
        if point.is_weight:
            return x
        y = fake_quantize(x, low[i], high[i], jnp.asarray(bits[i], jnp.int32), straight_through=False)
        seen[point.name] = y
        return y

    logits = execute(work, folded, (images,), lowering="xla", quantize=quantize)[0]
    return seen, logits


@pytest.mark.slow
def test_efficientnet_lite0_in_onnxruntime(tmp_path):
    """Real weights. Float32 sums come in another order, so that a rounding in a million goes another way, and
    60 quantizers carry that on: the first tensors are the same but for single levels, the logits are near."""
    source = nemo.networks.efficientnet_lite0(resolution=96)
    parts = nemo.sample_photographs(
        jax.random.key(0), source.preprocess, calibration=8, search=1, report=8
    ).parts
    images = np.asarray(parts.report.images)
    net = nemo.quantize(source, parts.calibration.images, lowering="xla")
    export_onnx(tmp_path / "full.onnx", net)
    full = np.asarray(jax.jit(source.apply)(source.params, images))
    for optimized in (False, True):
        assert ref.difference(ref.run(tmp_path / "full.onnx", net, images, optimized), full) < 1e-4
    for choices, tolerance in (((8,), 0.1), ((4, 5, 6, 7, 8), 0.3)):
        bits = np.random.default_rng(0).choice(choices, len(net.workload.points))
        report = export_onnx(tmp_path / "net.onnx", net, bits)
        assert (report.nodes["Transpose"], report.nodes["Conv"]) == (1, 49)
        seen, logits = jax.jit(lambda x, bits=bits: levels(net, bits, x))(images)
        logits = np.asarray(logits)
        model = onnx.load(tmp_path / "net.onnx")
        made = {name for node in model.graph.node for name in node.output}
        watched = [p.name for p in net.workload.points if p.name in made and not p.is_weight]
        assert len(watched) > 55
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in watched)
        onnx.save(model, tmp_path / "watched.onnx")
        outputs = ref.session(tmp_path / "watched.onnx", False).run(watched, {"input": images})
        for k, (name, found) in enumerate(zip(watched[:5], outputs, strict=False)):
            wanted = np.asarray(seen[name])
            off = np.rint(
                np.abs(found.transpose(0, 2, 3, 1) - wanted) / np.diff(np.unique(wanted)).min()
            )  # in levels
            assert (off > 0).mean() < 2e-3
            assert k > 0 or off.max() <= 1
        for optimized, entries in ((False, {}), (True, {}), (True, {"session__disable_quant_qdq": "1"})):
            found = ref.run(tmp_path / "net.onnx", net, images, optimized, **entries)
            assert np.sqrt(np.mean((found - logits) ** 2) / np.mean(logits**2)) < tolerance
    read = from_onnx(tmp_path / "net.onnx", batch=1)
    kinds = ("conv", "dwconv", "dense")
    ours, theirs = (
        [(op.kind, op.macs) for op in w.operations if op.kind in kinds] for w in (net.workload, read)
    )
    assert len(ours) == 50
    assert theirs == ours
