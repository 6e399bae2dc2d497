"""Every primitive that is exported, against JAX's own numbers: several of a kind in one network."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from nemojax.export import export_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

IMAGES = ref.draw(0, (3, 6, 5, 4))
IDS = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)
W = ref.kernel(1, 3, 3, 4, 6)


def conv(x, w, strides=(1, 1), pad="SAME", names=("NHWC", "HWIO", "NHWC"), **options):
    return lax.conv_general_dilated(
        x, w, strides, pad, dimension_numbers=names, precision="highest", **options
    )


def window(x, op, init, size, strides=(1, 1, 1, 1), pad="SAME", **options):
    return lax.reduce_window(x, init, op, size, strides, pad, **options)


def einsum(text, *operands):
    return jnp.einsum(text, *operands, precision="highest")


def unary(p, x):
    y, z = jnp.abs(x) + 0.1, x / 10.0
    names = (
        "neg abs sign floor ceil exp tanh logistic erf erfc sin cos tan asinh sinh cosh atan square cbrt exp2"
    )
    plain = [getattr(lax, name)(x) for name in names.split()]
    positive = [getattr(lax, name)(y) for name in ("log", "log1p", "sqrt", "rsqrt")]
    small = [getattr(lax, name)(z) for name in ("asin", "acos", "atanh", "expm1")]
    powers = [lax.integer_pow(y, n) for n in (-2, -1, 2, 3, 5)]
    rounds = [lax.round(4 * x, lax.RoundingMethod(k)) for k in (0, 1)]
    return [*plain, *positive, *small, *powers, *rounds, lax.acosh(y + 1.5)]


def arithmetic(p, x):
    whole = jnp.argmax(x, -1)[..., None] * jnp.ones((1, 1, 1, 4), jnp.int32)
    return [
        x + p["c"][None, None, None],
        p["c"][None, None, None] - x,
        x * jnp.max(x, (1, 2))[:, None, None],
        2.0 / (jnp.abs(x) + 1.0),
        lax.pow(jnp.abs(x) + 0.1, jnp.float32(1.7)),
        lax.pow(jnp.abs(x) + 0.1, whole),
        lax.rem(x, jnp.float32(0.7)),
        jnp.maximum(x, 0.0),
        jnp.maximum(x, jnp.tanh(2.0 * x)),
        jax.nn.relu6(3.0 * x),
        jnp.clip(x, -0.5, 0.7),
        lax.clamp(jnp.float32(-0.3), x, jnp.float32(0.4)),
        lax.clamp(x - 0.1, p["c"][0] * x, x + 0.1),
        jnp.minimum(x, 0.2) + jnp.maximum(x, 0.5),
        jnp.where(x > 0.1, x, x * 0.1),
        lax.select_n((x > 0).astype(jnp.int32), x * 3.0, x),
        jnp.where(((x > 0) & (x < 1)) | ~(x > -1) ^ (x > 2), x, 0.5),
        jnp.where(jnp.isfinite(1.0 / jnp.floor(x)), x, 9.0),
        (x >= 0.0).astype(jnp.float32) + (x <= 1.0).astype(jnp.float32) * 2.0,
        (jnp.floor(x) != 0.0).astype(jnp.float32) + (jnp.floor(x) == 1.0).astype(jnp.float32),
        x.astype(jnp.int32).astype(jnp.float32),
        lax.stop_gradient(x) + 1.0,
        lax.reduce_precision(x, 8, 23) + 2.0,
    ]


def reductions(p, x):
    kinds = [jnp.sum, jnp.max, jnp.min, jnp.prod, jnp.mean]
    axes = [(1,), (1, 2), (3,), (2, 3), (1, 2, 3)]
    found = [fn(x, a) for fn in kinds for a in axes]
    masks = jnp.any(x > 1.0, (1, 2)).astype(jnp.float32) + 2.0 * jnp.all(x > -1.0, (1, 2)).astype(jnp.float32)
    best = jnp.argmax(x, -1).astype(jnp.float32) + 9.0 * jnp.argmin(x, 1).astype(jnp.float32)[:, :1, :1]
    y = conv(x, p["w"])
    centred = x - jnp.mean(x, (1, 2), keepdims=True) + jnp.mean(y, (1, 2), keepdims=True)[..., :4]
    return [*found, masks, best, centred, y * jnp.mean(y, (1, 2))[:, None, None]]


def windows(p, x):
    ones = jnp.ones((1, *x.shape[1:3], 1))
    inside = window(ones, lax.add, 0.0, (1, 3, 3, 1), (1, 2, 2, 1))
    return [
        window(x, lax.max, -jnp.inf, (1, 3, 2, 1), (1, 2, 1, 1)),
        window(x, lax.max, -jnp.inf, (1, 2, 2, 1), pad="VALID", window_dilation=(1, 2, 2, 1)),
        window(x, lax.max, -jnp.inf, (1, 1, 1, 2), (1, 1, 1, 2)),
        window(x, lax.min, jnp.inf, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        window(x, lax.add, 0.0, (1, 2, 2, 1)),
        window(x, lax.add, 0.0, (1, 2, 2, 1), (1, 2, 2, 1)) / 4.0,
        window(x, lax.add, 0.0, (1, 3, 3, 1), (1, 2, 2, 1)) / inside,
        window(x, lax.add, 0.0, (1, 2, 2, 1)) / 3.0,
        window(jax.nn.relu(conv(x, p["w"])), lax.max, -jnp.inf, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ]


def convolutions(p, x):
    w, grouped = p["w"], p["w"][:, :, :2]
    sequence, volume = x.reshape(x.shape[0], -1, 4), x.reshape(x.shape[0], 2, 3, 5, 4)
    return [
        conv(x, w, (2, 2)),
        conv(x, w, pad="VALID"),
        conv(x, w, pad=((0, 1), (2, 0))),
        conv(x, w, rhs_dilation=(2, 1)),
        conv(x, grouped, feature_group_count=2),
        conv(x, w[:, :, :1, :4], feature_group_count=4),
        conv(x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), names=("NCHW", "OIHW", "NHWC")),
        conv(sequence, w[0], (2,), names=("NWC", "WIO", "NWC")),
        conv(volume, w[None], (1, 1, 2), names=("NDHWC", "DHWIO", "NDHWC")),
        conv(conv(x, w), jnp.swapaxes(w, 2, 3), (1, 2)),
        conv(x, w, pad=((2, 1), (1, 2)), lhs_dilation=(2, 2)),
        conv(x, w, pad=((3, 3), (2, 4)), lhs_dilation=(2, 3), rhs_dilation=(1, 1)),
        conv(x, grouped, pad=((1, 1), (1, 1)), lhs_dilation=(2, 1), feature_group_count=2),
        lax.conv_transpose(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        ),
    ]


def products(p, x):
    a, b, c, d = (p[name] for name in "abcd")
    return [
        x @ a,
        einsum("nhwc,wk->nhck", x, b),
        einsum("nhwc,hck->nkw", x, c),
        einsum("nhwc,cab->nhwab", x, d),
        einsum("nhwc,hck->nhwk", x, c),
        einsum("nhwc,nhvc->nwhv", x, 2.0 * x),
        einsum("nhwc,nhwd->ncd", x, 2.0 * x),
        einsum("nhwc,nhvd->nhwcvd", x, x[:, :, :2]),
        conv(x, p["w"])[..., :4] @ a,
        jnp.max(x, (1, 2)) @ a + p["bias"][None],
        jax.vmap(lambda row: row.reshape(-1, 4) @ a[:, 0])(x),
    ]


def layouts(p, x):
    y = conv(x, p["w"])
    return [
        x.transpose(0, 3, 1, 2) + 1.0,
        (x.reshape(-1, 4) * 2.0).reshape(x.shape),
        y.reshape(x.shape[0], -1),
        x[:, None, :, None].reshape(x.shape[0], 6, 1, 5, 4) + 1.0,
        jnp.squeeze(jnp.max(y, 3, keepdims=True), 3),
        x[:, 1:5:2, ::-1, :3],
        y[:, 0] + y[:, -1],
        lax.rev(y, (1, 3)),
        jnp.concatenate([y, x, jnp.tanh(y)], -1),
        jnp.pad(y, ((0, 0), (1, 2), (0, 0), (0, 3)), constant_values=0.5),
        lax.pad(x, 0.0, ((0, 0, 0), (-1, 1, 0), (0, -2, 0), (0, 0, 0))),
        sum(part.sum(2) for part in jnp.split(y, [1, 3], 2)),
        jnp.tile(y, (1, 2, 1, 3)),
        lax.dynamic_slice_in_dim(y, 3, 2, 1),
        lax.dynamic_slice_in_dim(x, 5, 2, 1),
        jnp.broadcast_to(jnp.max(y, 1, keepdims=True), y.shape),
        jnp.take(y, jnp.array([2, 0, 1]), axis=1),
        y[:, :, jnp.array([4, -1])],
        jnp.take_along_axis(x, jnp.argmax(x, -1)[..., None], axis=-1),
        jnp.where((y > 0).any(-1, keepdims=True), y, -9.0),
    ]


def lookups(p, ids):
    table = p["table"]
    return [
        jnp.take(table, ids, axis=0),
        table[ids] * 2.0,
        table[ids - 11],
        jnp.take(table, ids + 5, axis=0, mode="clip"),
        jax.nn.one_hot(ids, 11) @ table,
        (ids // 2 + ids % 3).astype(jnp.float32),
    ]


def activations(p, x):
    return [
        jax.nn.softmax(x, -1),
        jax.nn.softmax(x, 2),
        jax.nn.softmax(conv(x, p["w"]), -1),
        jax.nn.log_softmax(x),
        jax.nn.logsumexp(x, -1),
        jax.nn.gelu(3.0 * x, approximate=False),
        jax.nn.gelu(2.0 * x),
        jax.nn.silu(x),
        jax.nn.hard_swish(4.0 * x),
        jax.nn.softplus(x),
        jax.nn.elu(x),
        jax.nn.selu(x),
        jax.nn.leaky_relu(x),
        jax.nn.mish(x),
        jax.nn.standardize(x, axis=-1, epsilon=1e-5) * p["c"][None, None, None] + p["c"][None, None, None],
        jax.nn.standardize(conv(x, p["w"]), axis=(2, 3), epsilon=1e-3),
        x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * p["c"][None, None, None],
    ]


PARAMS = {
    "w": W,
    "c": ref.draw(2, (4,)),
    "a": ref.kernel(3, 4, 7),
    "b": ref.kernel(4, 5, 7),
    "d": ref.kernel(6, 4, 3, 5),
    "bias": ref.draw(7, (7,)),
    "table": ref.kernel(8, 11, 4),
}
GROUPS = {
    "unary": (unary, IMAGES, {}),
    "arithmetic": (arithmetic, IMAGES, {"Relu": 1, "Clip": 3}),
    "reductions": (reductions, IMAGES, {"ReduceMean": 5, "GlobalAveragePool": 3}),
    "windows": (windows, IMAGES, {"MaxPool": 5, "AveragePool": 4}),
    "convolutions": (convolutions, IMAGES, {"Conv": 11, "ConvTranspose": 4}),
    "products": (products, IMAGES, {"Gemm": 1}),
    "layouts": (layouts, IMAGES, {}),
    "lookups": (lookups, IDS, {"Gather": 4}),
    "activations": (
        activations, IMAGES,
        {"Softmax": 3, "LogSoftmax": 1, "Gelu": 2, "HardSwish": 1, "Softplus": 1, "Elu": 1, "Mish": 1,
         "LayerNormalization": 2},
    ),
}  # fmt: skip


def outputs(group, p, x):
    """All results side by side, one row a sample."""
    samples = x.shape[0]
    return jnp.concatenate([y.reshape(samples, -1).astype(jnp.float32) for y in group(p, x)], 1)


@pytest.mark.parametrize("name", GROUPS)
def test_the_file_gives_jaxs_numbers(name, tmp_path):
    group, x, expected = GROUPS[name]
    params = {**PARAMS, "c": PARAMS["c"] if name != "products" else ref.kernel(5, 6, 4, 7)}
    wanted = [np.asarray(y).reshape(len(x), -1) for y in jax.jit(group)(params, x)]
    net = ref.network(partial(outputs, group), params, x)
    report = export_onnx(tmp_path / "net.onnx", net)
    for optimized in (False, True):
        found = ref.run(tmp_path / "net.onnx", net, x, optimized)
        parts = np.split(found, np.cumsum([y.shape[1] for y in wanted])[:-1], axis=1)
        for i, (part, y) in enumerate(zip(parts, wanted, strict=True)):
            assert ref.difference(part, np.float32(y)) < 2e-5, (name, i, optimized)
    np.testing.assert_allclose(ref.run(tmp_path / "net.onnx", net, x[1:2]), found[1:2], rtol=1e-4, atol=1e-4)
    assert {op: report.nodes.get(op, 0) for op in expected} == expected


def test_negative_padding_crops(tmp_path):
    """Against NumPy's crop, because XLA's CPU code reads beyond the image there (jax 0.10.2)."""

    def fn(p, x):
        return conv(x, p["w"], pad=((-1, 1), (0, -1)))

    net = ref.network(fn, {"w": W}, IMAGES)
    export_onnx(tmp_path / "net.onnx", net)
    cropped = np.pad(IMAGES[:, 1:, :-1], ((0, 0), (0, 1), (0, 0), (0, 0)))
    wanted = np.asarray(conv(jnp.asarray(cropped), W, pad="VALID"))
    assert ref.difference(ref.run(tmp_path / "net.onnx", net, IMAGES), wanted) < 1e-5


@pytest.mark.parametrize("batch", [None, "images", 3])
def test_what_depends_on_the_batch(batch, tmp_path):
    """Broadcasts to the batch, a learned token, and rows merged with it; the number stays open if asked."""

    def fn(p, x):
        tokens = x.reshape(x.shape[0], -1, 4)
        y = jnp.concatenate([tokens[:, :1] * 0.0 + p["token"], tokens], 1)
        merged = (y.reshape(-1, 4) @ p["a"]).reshape(x.shape[0], -1, 7)
        return merged + jnp.broadcast_to(jnp.max(merged, 1, keepdims=True), merged.shape)

    net = ref.network(fn, {"token": ref.draw(1, (1, 1, 4)), "a": PARAMS["a"]}, IMAGES)
    export_onnx(tmp_path / "net.onnx", net, batch=batch)
    session = ref.session(tmp_path / "net.onnx", True)
    assert session.get_inputs()[0].shape == [batch or "N", 6, 5, 4]
    assert session.get_outputs()[0].shape[0] == (batch or "N")
    for x in (IMAGES,) if batch == 3 else (IMAGES, IMAGES[:1], np.concatenate([IMAGES, IMAGES])):
        params = {"token": ref.draw(1, (1, 1, 4)), "a": PARAMS["a"]}
        assert (
            ref.difference(session.run(None, {"input": x})[0], np.asarray(fn(params, jnp.asarray(x)))) < 1e-5
        )


def averages(dilation):
    def fn(p, x):
        spread = (1, dilation, dilation, 1)
        y = window(conv(x, p["w"]), lax.add, 0.0, (1, 2, 2, 1), (1, 2, 2, 1), window_dilation=spread)
        return y / 4.0

    return ref.network(fn, {"w": W}, IMAGES)


def test_an_average_pool_at_the_lowest_opset(tmp_path):
    """AveragePool has dilations from opset 19 on."""
    for dilation, opset in ((1, 18), (1, 19), (2, 19)):
        net = averages(dilation)
        report = export_onnx(tmp_path / "net.onnx", net, opset=opset)
        assert report.nodes["AveragePool"] == 1
        found = ref.run(tmp_path / "net.onnx", net, IMAGES)
        assert ref.difference(found, np.asarray(net.logits(IMAGES))) < 1e-5
    with pytest.raises(ValueError, match="average over a dilated window, which ONNX has from opset 19 on"):
        export_onnx(tmp_path / "other.onnx", averages(2), opset=18)
    assert not (tmp_path / "other.onnx").exists()


def handwritten(kind):
    """Almost an ONNX operator: the same numbers near 0, or where the variance is of a usual size."""

    def normal(y, scale):
        centred = y - y.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        return centred * scale(variance)

    def gelu_within(y, end):  # clipped twice, so that one number goes in
        return jnp.clip(y, -end, end) * 0.5 * lax.erfc(-jnp.clip(y, -end, end) * np.float32(np.sqrt(0.5)))

    def unless_tiny(v):
        return jnp.where(v > 1e-9, lax.rsqrt(v + 1e-6), 0.0)

    def share(y):
        return jnp.exp(y) / (jnp.exp(y).sum(-1, keepdims=True) + 1e-6)

    return {
        "gelu up to 12": lambda y: jnp.where(y > 12.0, 12.0, jax.nn.gelu(y, approximate=False)),
        "softplus up to 10": lambda y: jnp.where(y > 10.0, 10.0, jax.nn.softplus(y)),
        "gelu of a clipped number": lambda y: jax.nn.gelu(jnp.clip(y, -10.0, 10.0), approximate=False),
        "norm by a standard deviation": lambda y: normal(y, lambda v: 1.0 / (jnp.sqrt(v) + 1e-6)),
        "gelu within ten million": lambda y: gelu_within(y, 1e7),
        "norm by the larger of two": lambda y: normal(y, lambda v: lax.rsqrt(jnp.maximum(v, 1e-6))),
        "norm of a tiny variance": lambda y: normal(y, unless_tiny),
        "norm of a bounded variance": lambda y: normal(y, lambda v: lax.rsqrt(jnp.minimum(v, 100.0) + 1e-6)),
        "softmax with an epsilon": lambda y: share(y - 20.0),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("gelu up to 12", 30.0),
        ("softplus up to 10", 30.0),
        ("gelu of a clipped number", 30.0),
        ("gelu within ten million", 1e8),
        ("norm by a standard deviation", 1e-4),
        ("norm by the larger of two", 1e-4),
        ("norm of a tiny variance", 1e-5),
        ("norm of a bounded variance", 60.0),
        ("softmax with an epsilon", 1.0),
    ],
)
def test_what_only_looks_like_an_operator_keeps_its_own_numbers(kind, size, tmp_path):
    """An operator may be a part of it: Softplus, and Where behind it."""
    x = size * ref.draw(5, (3, 16))

    def fn(p, x):
        return handwritten(kind)(x) @ p["w"]

    net = ref.network(fn, {"w": ref.draw(6, (16, 4))}, x)
    report = export_onnx(tmp_path / "net.onnx", net, opset=21)
    assert not {"LayerNormalization", "Softmax"} & set(report.nodes)
    wanted = np.asarray(net.logits(x))
    assert ref.difference(ref.run(tmp_path / "net.onnx", net, x), wanted) < 1e-4


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1e-12])
def test_the_norms_of_flax_are_one_operator(epsilon, tmp_path):
    """Its variance is E[x²] - E[x]², which rounding hides where the mean is far above the spread."""
    norm = nn.LayerNorm(epsilon=epsilon)
    scales = {"scale": ref.draw(1, (16,)), "bias": ref.draw(2, (16,))}
    x = ref.draw(5, (3, 4, 16))
    net = ref.network(
        lambda p, x: norm.apply({"params": p["norm"]}, x) @ p["w"],
        {"w": ref.draw(6, (16, 4)), "norm": scales},
        x,
    )
    report = export_onnx(tmp_path / "net.onnx", net)
    assert report.nodes == {"LayerNormalization": 1, "MatMul": 1}
    assert ref.difference(ref.run(tmp_path / "net.onnx", net, x), np.asarray(net.logits(x))) < 1e-5
