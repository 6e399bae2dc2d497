"""Quantized networks in onnxruntime against ours: every bit-width, kind of grid, opset and library."""

import importlib.util
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from hwmodel import from_onnx
from nemojax.calibration import QuantizerConfig
from nemojax.export import export_onnx
from nemojax.ptq import equalized, find_pairs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

IMAGES = ref.draw(0, (4, 16, 16, 3))
GRIDS = {
    "default": QuantizerConfig(),
    "per tensor": QuantizerConfig(per_channel=False),
    "symmetric": QuantizerConfig(symmetric_weights=True, symmetric_activations=True),
}
EXACT = {"session__disable_quant_qdq": "1"}  # onnxruntime without its integer kernels
WITH_THEM = not ref.saturates()  # where sums of pairs of bytes saturate, their logits are no reference


def conv(x, w, stride=1, groups=1, pad="SAME", dilation=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), pad, rhs_dilation=(dilation, dilation), precision="highest",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def residual(p, x):
    """Strided, grouped, dilated, depthwise and linear convolutions, a max pooling, a shortcut, a mean."""

    def layer(name, x, *args, **options):
        y = conv(x, p[name], *args, **options)
        return y * p[f"{name}_scale"][None, None, None] + p[f"{name}_shift"][None, None, None]

    x = jax.nn.relu6(layer("stem", x, 2))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    y = jax.nn.relu(layer("grouped", x, groups=2))
    y = jax.nn.relu6(layer("dilated", y, dilation=2))
    y = jax.nn.relu6(layer("depthwise", y, groups=8, pad=((2, 1), (1, 2))))
    x = x + layer("linear", y[:, :4, :4])
    return jnp.mean(x, (1, 2)) @ p["fc"] + p["fc_bias"][None]


def residual_params():
    shapes = {
        "stem": (3, 3, 3, 8), "grouped": (3, 3, 4, 8), "dilated": (3, 3, 8, 8), "depthwise": (3, 3, 1, 8),
        "linear": (1, 1, 8, 8),
    }  # fmt: skip
    p = {"fc": ref.kernel(1, 8, 5), "fc_bias": ref.draw(2, (5,))}
    for seed, (name, shape) in enumerate(shapes.items()):
        p |= {name: ref.kernel(seed, *shape), f"{name}_scale": 1 + ref.draw(seed + 10, shape[-1:], 0.3)}
        p[f"{name}_shift"] = ref.draw(seed + 20, shape[-1:], 0.5)
    p["stem_scale"][0] = 0.0  # a channel that is cut off
    return p


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mask=None):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, mask=mask)
        h = nn.LayerNorm()(x)
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(h), approximate=False))


class Text(nn.Module):
    """Token and position embeddings, an attention block with a mask, a pooled token."""

    @nn.compact
    def __call__(self, inputs):
        ids = inputs["ids"]
        x = nn.Embed(13, 8)(ids) + nn.Embed(7, 8, name="positions")(jnp.arange(ids.shape[1])[None])
        x = Block()(x, inputs["mask"][:, None, None].astype(bool))
        return nn.Dense(5)(nn.tanh(nn.Dense(8)(x[:, 0])))


class Patches(nn.Module):
    """A vision transformer of one block."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), 4)(x)
        return nn.Dense(5)(Block()(x.reshape(x.shape[0], -1, 8)).mean(1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.fc = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    mlp: eqx.nn.MLP

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(3, 6, 3, stride=2, padding=1, key=first)
        self.mlp = eqx.nn.MLP(6, 5, 8, 1, key=second)

    def __call__(self, x):
        return self.mlp(jax.nn.relu(self.conv(jnp.transpose(x, (2, 0, 1)))).mean((1, 2)))


def filled(shapes, seed=3):
    """Drawn parameters: kernels whose products keep their size, scales and variances near 1, small biases."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        near = 1.0 if "scale" in name or "var" in name else 0.0
        spread = 0.2 if len(leaf.shape) < 2 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return (near + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make(name):
    """(function, parameters, inputs); nothing is initialised, which would compile a program a layer."""
    key = jax.random.key(0)
    if name == "residual":
        return residual, residual_params(), IMAGES
    if name == "text":
        ids = np.random.default_rng(0).integers(0, 13, (4, 7)).astype(np.int32)
        inputs = {"ids": ids, "mask": np.int32(np.arange(7)[None] < np.array([7, 5, 7, 3])[:, None])}
        return Text().apply, filled(jax.eval_shape(Text().init, key, inputs)), inputs
    if name == "patches":
        return Patches().apply, filled(jax.eval_shape(Patches().init, key, IMAGES)), IMAGES
    if name == "nnx":
        graph, state = nnx.split(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))))
        return lambda p, x: nnx.merge(graph, p)(x), filled(state), IMAGES
    model = eqx.filter_eval_shape(Equinox, key)
    shapes, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), filled(shapes), IMAGES


def bits_of(net, choices, seed=0):
    return np.random.default_rng(seed).choice(choices, len(net.workload.points))


@pytest.fixture(scope="module")
def networks():
    """(name, grid) -> the network, its inputs, and a function of bits to its logits; each made once."""
    known = {}

    def get(name, grid="default"):
        if (name, grid) not in known:
            fn, params, inputs = make(name)
            net = ref.network(fn, params, inputs, GRIDS[grid])
            run = jax.jit(lambda bits: net.quantized_logits(bits, inputs))
            known[name, grid] = net, inputs, lambda bits: np.asarray(run(jnp.asarray(bits, jnp.int32)))
        return known[name, grid]

    return get


@pytest.mark.long
@pytest.mark.parametrize("opset", [18, 21, 25])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_width_on_a_convolutional_network(networks, grid, opset, tmp_path):
    """The float32 sums differ in their order alone, so that on these images no rounding goes another way."""
    net, inputs, logits = networks("residual", grid)
    for choices in [(b,) for b in (2, 3, 4, 5, 8, 16)] + [(2, 3, 4, 5, 6, 7, 8, 12, 16, 32)] * 2:
        bits = bits_of(net, choices, seed=len(choices))
        export_onnx(tmp_path / "net.onnx", net, bits, opset=opset)
        wanted = logits(bits)
        for found in (
            ref.run(tmp_path / "net.onnx", net, inputs, o, **e) for o, e in ((False, {}), (True, EXACT))
        ):
            assert ref.difference(found, wanted) < 1e-5, choices
        if WITH_THEM:
            by_default = ref.run(tmp_path / "net.onnx", net, inputs, optimized=True)
            assert ref.difference(by_default, wanted) < (2e-2 if choices == (8,) else 1e-5), choices


@pytest.mark.long
@pytest.mark.parametrize("name", ["text", "patches", "nnx", "equinox"])
def test_every_library(networks, name, tmp_path):
    net, inputs, logits = networks(name)
    for choices in ((32,), (8,), (4,), (2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 6, 8, 16, 32)):
        bits = bits_of(net, choices)
        report = export_onnx(tmp_path / "net.onnx", net, bits)
        wanted = logits(bits)
        for optimized, entries in ((False, {}), (True, EXACT)):
            found = ref.run(tmp_path / "net.onnx", net, inputs, optimized, **entries)
            assert ref.difference(found, wanted) < 1e-5, (choices, optimized)
        if (
            WITH_THEM and max(choices) <= 8
        ):  # with more, onnxruntime rounds activations to 8 bits in its MatMulNBits
            assert ref.difference(ref.run(tmp_path / "net.onnx", net, inputs, True), wanted) < 5e-2
        assert len(report.quantizers) == (bits < 32).sum()
        assert len(report.unquantized) == (bits == 32).sum()


def test_signed_tensors_that_are_moved(tmp_path):
    """onnxruntime moves 8-bit quantizers past what only moves elements, and loads the file all the same."""

    def fn(p, x):
        y = jax.nn.relu(conv(x, p["conv"], 4)).reshape(x.shape[0], -1, 8)
        y = (y @ p["fc"]).transpose(0, 2, 1)[:, 1:7]
        y = lax.reduce_window(jnp.tanh(y), -jnp.inf, lax.max, (1, 1, 2), (1, 1, 2), "VALID")
        return (y.reshape(x.shape[0], -1, 4) @ p["last"]).mean(1)

    params = {"conv": ref.kernel(0, 4, 4, 3, 8), "fc": ref.kernel(1, 8, 8), "last": ref.kernel(2, 4, 5)}
    net = ref.network(fn, params, IMAGES, GRIDS["symmetric"])
    net = net.replace(ranges=net.ranges._replace(low=jnp.full_like(net.ranges.low, -3.0)))
    bits = bits_of(net, (8,))
    report = export_onnx(tmp_path / "net.onnx", net, bits)
    assert {q.dtype for q in report.native} == {"int8"}
    wanted = ref.logits(net, bits, IMAGES)
    for optimized, entries in ((False, {}), (True, EXACT)):
        assert (
            ref.difference(ref.run(tmp_path / "net.onnx", net, IMAGES, optimized, **entries), wanted) < 1e-5
        )
    by_default = ref.run(tmp_path / "net.onnx", net, IMAGES, optimized=True)  # which must load it everywhere
    assert ref.difference(by_default, wanted) < 2e-2 or not WITH_THEM


def test_four_bit_tensors_around_convolutions_without_biases(tmp_path):
    """Of thousands of roundings one may be a tie that a sum of another order breaks: a level of 64 pixels."""

    def fn(p, x):
        y = conv(conv(x, p["first"]), p["second"], 2)
        return jnp.mean(conv(y, p["third"]), (1, 2))

    params = {name: ref.kernel(i, 3, 3, 3, 3) for i, name in enumerate(("first", "second", "third"))}
    net = ref.network(fn, params, IMAGES)
    for widths in ((4,), (4, 8), (8,), (3, 4, 7)):
        for seed in range(3):
            bits = bits_of(net, widths, seed)
            export_onnx(tmp_path / "net.onnx", net, bits)
            wanted = ref.logits(net, bits, IMAGES) if seed == 0 else None
            found = [
                ref.run(tmp_path / "net.onnx", net, IMAGES, optimized, **entries)
                for optimized, entries in ((False, {}), (True, EXACT), (True, {}))
            ]
            assert ref.difference(found[1], found[0]) < 2e-3
            assert ref.difference(found[2], found[0]) < 1e-2 or not WITH_THEM
            assert wanted is None or ref.difference(found[0], wanted) < 2e-3


def test_an_equalized_network(networks, tmp_path):
    """The bounds of its ReLU6 differ from channel to channel."""
    net, inputs, _ = networks("residual")
    assert [len(pair.clips) for pair in find_pairs(net.workload)] == [0, 1]
    better = equalized(net, inputs)
    (bound,) = (c for name, c in better.folded.constants.items() if name not in net.folded.constants)
    assert np.ptp(np.asarray(bound)) > 0.5
    for choices in ((8,), (2, 3, 4, 6, 8, 16, 32)):
        bits = bits_of(better, choices)
        export_onnx(tmp_path / "net.onnx", better, bits)
        found = ref.run(tmp_path / "net.onnx", better, inputs, False)
        assert ref.difference(found, ref.logits(better, bits, inputs)) < 1e-5


def nodes(path, op_type):
    return [node for node in onnx.load(path).graph.node if node.op_type == op_type]


def initializers(path):
    return {t.name: t for t in onnx.load(path).graph.initializer}


def test_the_file_looks_as_deployment_tools_expect(networks, tmp_path):
    """One transposition, at the input; bounds as Clip and Relu; a mean as a pooling."""
    net, _, _ = networks("residual")
    report = export_onnx(tmp_path / "net.onnx", net, bits_of(net, (8,)))
    expected = {
        "Transpose": 1,
        "Conv": 5,
        "Clip": 3,
        "Relu": 1,
        "GlobalAveragePool": 1,
        "Gemm": 1,
        "MaxPool": 1,
    }
    assert {op: report.nodes[op] for op in expected} == expected
    assert report.nodes["QuantizeLinear"] == sum(not p.is_weight for p in net.workload.points)
    assert report.nodes["DequantizeLinear"] == len(net.workload.points)
    assert sum(len(node.input) == 3 for node in nodes(tmp_path / "net.onnx", "Conv")) >= 4
    assert [node.name for node in nodes(tmp_path / "net.onnx", "Gemm")] == ["fc/Gemm"]
    made = {name for node in nodes(tmp_path / "net.onnx", "DequantizeLinear") for name in node.output}
    activations = {p.name for p in net.workload.points if not p.is_weight and p.name != "input"}
    assert activations <= made


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_stored_as_integers_of_our_grid(networks, grid, tmp_path):
    """Scale, zero point and integers against NumPy's retelling; sub-byte types packed as ONNX packs them."""
    net, _, _ = networks("residual", grid)
    symmetric = net.config.symmetric_weights
    for b, opset, dtype, per_byte in (
        (8, 21, "INT8", 1),
        (4, 21, "INT4", 2),
        (2, 25, "INT2", 4),
        (16, 21, "INT16", 0.5),
    ):
        export_onnx(tmp_path / "net.onnx", net, bits_of(net, (b,)), opset=opset)
        stored = initializers(tmp_path / "net.onnx")
        (names,) = (
            n.input for n in nodes(tmp_path / "net.onnx", "DequantizeLinear") if "dilated.weight" in n.input
        )
        tensor = stored["dilated.weight"]
        assert tensor.data_type == onnx.TensorProto.DataType.Value(dtype)
        assert len(tensor.raw_data) == -(-8 * 8 * 9 // per_byte)
        q, scale, zero = (
            np.asarray(onnx.numpy_helper.to_array(stored[name])).astype(np.float32) for name in names
        )
        assert scale.shape == zero.shape == ((8,) if net.config.per_channel else ())
        folded = residual_params()["dilated"] * residual_params()["dilated_scale"]
        axes = (0, 1, 2) if net.config.per_channel else None
        low, high = np.minimum(folded.min(axes), 0), np.maximum(folded.max(axes), 0)
        if symmetric:
            assert not zero.any()
            expected = np.maximum(-low, high) / np.float32(2 ** (b - 1) - 1)
        else:
            expected = (high - low) / np.float32(2**b - 1)
            np.testing.assert_array_equal(zero, -(2 ** (b - 1)) - np.rint(low / expected))
        np.testing.assert_allclose(scale, expected, rtol=1e-6)
        ours = np.clip(np.rint(folded / scale) + zero, -(2 ** (b - 1)), 2 ** (b - 1) - 1)
        off = np.abs(q - ours.transpose(3, 2, 0, 1))  # XLA and NumPy may round the middle of two levels apart
        assert off.max() <= 1
        assert (off > 0).mean() < 0.005


def test_symmetric_zero_points_are_zero(networks, tmp_path):
    net, _, _ = networks("residual", "symmetric")
    export_onnx(tmp_path / "net.onnx", net, bits_of(net, (2, 3, 4, 5, 6, 7, 8), seed=5))
    stored = initializers(tmp_path / "net.onnx")
    for node in nodes(tmp_path / "net.onnx", "DequantizeLinear"):
        assert not np.asarray(onnx.numpy_helper.to_array(stored[node.input[2]])).astype(np.int32).any()


def test_what_is_no_type_of_onnx_is_marked(networks, tmp_path):
    net, _, _ = networks("residual")
    names = net.workload.point_names
    bits = dict.fromkeys(names, 8) | {
        "stem.weight": 4, "dilated.weight": 3, "linear.weight": 11, "fc.weight": 2, "stem.activation": 4,
        "grouped.activation": 4, "dilated.activation": 6, "linear.sum": 13, "depthwise.weight": 32,
    }  # fmt: skip
    report = export_onnx(tmp_path / "net.onnx", net, bits)
    fake = {q.point: (q.dtype, q.reason) for q in report.fake}
    assert fake == {
        "dilated.weight": ("int4", "3-bit integers stored as int4"),
        "linear.weight": ("int16", "11-bit integers stored as int16"),
        "fc.weight": ("int4", "2-bit integers stored as int4"),
        "stem.activation": ("uint8", "clipped to 4 bits, then uint8"),  # a MaxPool takes no 4-bit type
        "dilated.activation": ("uint8", "clipped to 6 bits, then uint8"),
        "linear.sum": ("uint16", "clipped to 13 bits, then uint16"),
    }
    native = {q.point: q.dtype for q in report.native}
    assert native["grouped.activation"] == "uint4"
    assert native["stem.weight"] == "int4"
    assert set(native) | set(fake) == set(names) - {"depthwise.weight"}
    assert report.unquantized == ("depthwise.weight",)
    marked = {}
    for node in onnx.load(tmp_path / "net.onnx").graph.node:
        props = {p.key: p.value for p in node.metadata_props}
        if "frugaljax.fake" in props:
            marked[props["frugaljax.quantizer"]] = (props["frugaljax.bits"], props["frugaljax.fake"])
            assert props["frugaljax.fake"] in node.doc_string
    assert marked == {name: (str(bits[name]), reason) for name, (_, reason) in fake.items()}
    assert "3-bit integers stored as int4" in report.table()
    old = export_onnx(tmp_path / "old.onnx", net, bits, opset=18)  # no int4, no int16
    assert {q.point: q.dtype for q in old.fake}["linear.sum"] == "float32"
    assert "opset 18 has no integer type of 13 bits" in {q.reason for q in old.fake}
    assert any("13 bits" in node.doc_string for node in nodes(tmp_path / "old.onnx", "Round"))


@pytest.mark.parametrize("name", ["residual", "patches"])
def test_read_back_it_has_the_same_macs(networks, name, tmp_path):
    net, _, _ = networks(name)
    export_onnx(tmp_path / "net.onnx", net, bits_of(net, (2, 3, 4, 5, 6, 7, 8)))
    read = from_onnx(tmp_path / "net.onnx", batch=1)
    kinds = ("conv", "dwconv", "dense", "matmul")
    for work in (read, net.workload):
        assert sum(op.kind in kinds for op in work.operations) >= 6
    ours, theirs = (
        [(op.kind, op.macs) for op in work.operations if op.kind in kinds] for work in (net.workload, read)
    )
    assert theirs == ours
