"""Small members of the image families against NumPy, on tensors with other programs' names and layouts."""

import jax
import numpy as np
import pytest

from nemojax.networks import mobilenet, resnet, resnet_members
from nemojax.networks.layers import Stage


def conv(x, w, stride, pad, groups=1):
    """(N, H, W, C) with OIHW weights; `pad` (before, after) of rows and columns."""
    x = np.pad(x, [(0, 0), pad, pad, (0, 0)])
    outputs, _, k, _ = w.shape
    rows, columns = ((n - k) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, outputs))
    inputs, share = x.shape[3] // groups, outputs // groups
    for g in range(groups):
        part, kernel = x[..., g * inputs : (g + 1) * inputs], w[g * share : (g + 1) * share]
        for r in range(rows):
            for c in range(columns):
                patch = part[:, r * stride : r * stride + k, c * stride : c * stride + k]
                y[:, r, c, g * share : (g + 1) * share] = np.einsum("nabi,oiab->no", patch, kernel)
    return y


def same(size, kernel, stride):
    """TensorFlow's SAME: the odd pixel goes last."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Tensors(dict):
    """PyTorch's names; `conv` adds a convolution and a batch norm that is not the identity."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def conv(self, name, norm, o, i, k, bias=False):
        rng = self.rng
        self[f"{name}.weight"] = rng.standard_normal((o, i, k, k)) * (2 / (i * k * k)) ** 0.5
        if bias:
            self[f"{name}.bias"] = rng.normal(0, 0.5, o)
        self[f"{norm}.weight"], self[f"{norm}.bias"] = rng.uniform(0.5, 2, o), rng.normal(0.3, 0.5, o)
        self[f"{norm}.running_mean"] = rng.normal(0, 0.3, o)
        self[f"{norm}.running_var"] = rng.uniform(0.2, 2, o)

    def dense(self, name, o, i):
        self[f"{name}.weight"], self[f"{name}.bias"] = (
            self.rng.standard_normal((o, i)),
            self.rng.normal(0, 1, o),
        )

    def norm(self, x, name, epsilon):
        mean, var = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        return (x - mean) / np.sqrt(var + epsilon) * self[f"{name}.weight"] + self[f"{name}.bias"]

    def layer(self, x, name, norm, stride, pad, groups=1, epsilon=1e-5):
        y = conv(x, self[f"{name}.weight"], stride, pad, groups) + self.get(f"{name}.bias", 0.0)
        return self.norm(y, norm, epsilon)

    def classify(self, x, name):
        return x.mean((1, 2)) @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def float32(self):
        return {name: np.asarray(array, np.float32) for name, array in self.items()}


def check(family, config, tensors, images, want):
    config, params = family.convert(tensors, config)
    found = jax.jit(family.module(config).apply)(params, images.astype(np.float32))
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())
    return config


# MobileNet-V2

MOBILENET = mobilenet.Config(
    width=0.5, classes=5, stages=(Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 32), Stage(1, 5, 1, 3, 16))
)
CHANNELS = [
    (16, 8, 1, 3, 1),
    (8, 16, 6, 3, 2),
    (16, 16, 6, 3, 1),
    (16, 8, 3, 5, 1),
]  # in, out, expansion, k, s


def mobilenet_tensors(seed):
    t = Tensors(seed)
    t.conv("features.0.0", "features.0.1", 16, 3, 3)
    for i, (inputs, outputs, expansion, k, _) in enumerate(CHANNELS, 1):
        wide, b, n = inputs * expansion, f"features.{i}.conv", 0
        if i > 1:
            t.conv(f"{b}.0.0", f"{b}.0.1", wide, inputs, 1)
            n = 1
        t.conv(f"{b}.{n}.0", f"{b}.{n}.1", wide, 1, k)
        t.conv(f"{b}.{n + 1}", f"{b}.{n + 2}", outputs, wide, 1)
    t.conv("features.5.0", "features.5.1", 1280, 8, 1)
    t.dense("classifier.1", 5, 1280)
    return t


def mobilenet_numpy(t, x, as_keras, stem_stride=2):
    epsilon = 1e-3 if as_keras else 1e-5

    def layer(x, name, norm, stride, k, groups=1, act=True):
        pad = same(x.shape[1], k, stride) if as_keras else (k // 2, k // 2)
        y = t.layer(x, name, norm, stride, pad, groups, epsilon)
        return np.clip(y, 0, 6) if act else y

    x = layer(x, "features.0.0", "features.0.1", stem_stride, 3)
    for i, (inputs, outputs, expansion, k, stride) in enumerate(CHANNELS, 1):
        y, b, n = x, f"features.{i}.conv", 0
        if i > 1:
            y, n = layer(y, f"{b}.0.0", f"{b}.0.1", 1, 1), 1
        y = layer(y, f"{b}.{n}.0", f"{b}.{n}.1", stride, k, inputs * expansion)
        y = layer(y, f"{b}.{n + 1}", f"{b}.{n + 2}", 1, 1, act=False)
        x = x + y if stride == 1 and inputs == outputs else y
    return t.classify(layer(x, "features.5.0", "features.5.1", 1, 1), "classifier.1")


def keras_tensors(t, names, prefix=""):
    """From PyTorch's names to Keras's: HWIO, depthwise HWC1, the dense matrix transposed."""
    out = {}
    for there, here in names.items():
        for leaf, array in ((n.rpartition(".")[2], a) for n, a in t.items() if n.rpartition(".")[0] == here):
            norm = f"{here}.running_var" in t
            leaf = {
                "weight": "gamma" if norm else "kernel",
                "bias": "beta" if norm else "bias",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }[leaf]
            if array.ndim == 4:
                array = array.transpose(2, 3, 0, 1) if "depthwise" in there else array.transpose(2, 3, 1, 0)
            out[f"{prefix}{there}/{leaf}"] = array.T if array.ndim == 2 else array
    return {name: np.asarray(array, np.float32) for name, array in out.items()}


MOBILENET_IN_KERAS = {
    "Conv1": "features.0.0",
    "bn_Conv1": "features.0.1",
    "expanded_conv_depthwise": "features.1.conv.0.0",
    "expanded_conv_depthwise_BN": "features.1.conv.0.1",
    "expanded_conv_project": "features.1.conv.1",
    "expanded_conv_project_BN": "features.1.conv.2",
    **{
        f"block_{i - 1}_{layer}{end}": f"features.{i}.conv.{there}"
        for i in (2, 3, 4)
        for layer, end, there in (
            ("expand", "", "0.0"),
            ("expand", "_BN", "0.1"),
            ("depthwise", "", "1.0"),
            ("depthwise", "_BN", "1.1"),
            ("project", "", "2"),
            ("project", "_BN", "3"),
        )
    },
    "Conv_1": "features.5.0",
    "Conv_1_bn": "features.5.1",
    "my_head": "classifier.1",
}


@pytest.mark.parametrize(("size", "as_keras"), [(16, False), (13, False), (16, True), (13, True)])
def test_mobilenet(size, as_keras):
    """At even and odd sizes, where the two paddings differ; the layout of the file decides."""
    t = mobilenet_tensors(size)
    images = t.rng.normal(0, 1, (2, size, size, 3))
    tensors = keras_tensors(t, MOBILENET_IN_KERAS, "mobilenetv2/") if as_keras else t.float32()
    config = check(mobilenet.FAMILY, MOBILENET, tensors, images, mobilenet_numpy(t, images, as_keras))
    assert (config.padding, config.epsilon) == (("same", 1e-3) if as_keras else ("symmetric", 1e-5))


def test_mobilenet_from_timm_and_with_a_stem_of_stride_1():
    t = mobilenet_tensors(3)
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.5.0": "conv_head"}
    names |= {"features.5.1": "bn2", "classifier.1": "classifier"}
    for i, block in enumerate(("0.0", "1.0", "1.1", "2.0"), 1):
        layers = ["conv_pw", "conv_dw", "conv_pwl"] if i > 1 else ["conv_dw", "conv_pw"]
        for n, layer in enumerate(layers):
            there, last = f"features.{i}.conv", n == len(layers) - 1
            names[f"{there}.{n}" if last else f"{there}.{n}.0"] = f"blocks.{block}.{layer}"
            names[f"{there}.{n + 1}" if last else f"{there}.{n}.1"] = f"blocks.{block}.bn{n + 1}"
    timm = {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": a for n, a in t.float32().items()}
    images = t.rng.normal(0, 1, (1, 8, 8, 3))
    config = mobilenet.Config(0.5, 5, 32, stem_stride=1, stages=MOBILENET.stages)
    check(mobilenet.FAMILY, config, timm, images, mobilenet_numpy(t, images, False, stem_stride=1))


# ResNet and ResNeXt

RESNEXT = resnet.Config((2, 1), width=8, groups=2, group_width=4, classes=5)


def resnext_tensors(seed, bias=False):
    t = Tensors(seed)
    t.conv("conv1", "bn1", 8, 3, 7, bias)
    for stage, block, inputs, inner, outer in ((1, 0, 8, 8, 32), (1, 1, 32, 8, 32), (2, 0, 32, 16, 64)):
        b, groups = f"layer{stage}.{block}", 1 if bias else 2
        t.conv(f"{b}.conv1", f"{b}.bn1", inner, inputs, 1, bias)
        t.conv(f"{b}.conv2", f"{b}.bn2", inner, inner // groups, 3, bias)
        t.conv(f"{b}.conv3", f"{b}.bn3", outer, inner, 1, bias)
        if not block:
            t.conv(f"{b}.downsample.0", f"{b}.downsample.1", outer, inputs, 1, bias)
    t.dense("fc", 5, 64)
    return t


def resnext_numpy(t, x, as_keras):
    epsilon, groups = (1.001e-5, 1) if as_keras else (1e-5, 2)

    def layer(x, name, norm, stride=1, k=1, groups=1):
        return t.layer(x, name, norm, stride, (k // 2, k // 2), groups, epsilon)

    x = np.maximum(layer(x, "conv1", "bn1", 2, 7), 0)
    padded = np.pad(
        x, [(0, 0), (1, 1), (1, 1), (0, 0)]
    )  # of what a relu made, so that 0 is no maximum's rival
    rows, columns = ((n - 3) // 2 + 1 for n in padded.shape[1:3])
    x = np.stack(
        [
            np.stack([padded[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2)) for c in range(columns)], 1)
            for r in range(rows)
        ],
        1,
    )
    for b, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2)):
        y = np.maximum(layer(x, f"{b}.conv1", f"{b}.bn1", stride if as_keras else 1), 0)
        y = np.maximum(layer(y, f"{b}.conv2", f"{b}.bn2", 1 if as_keras else stride, 3, groups), 0)
        y = layer(y, f"{b}.conv3", f"{b}.bn3")
        if b.endswith(".0"):
            x = layer(x, f"{b}.downsample.0", f"{b}.downsample.1", stride)
        x = np.maximum(x + y, 0)
    return t.classify(x, "fc")


@pytest.mark.parametrize("size", [32, 19])
def test_resnext(size):
    t = resnext_tensors(size)
    images = t.rng.normal(0, 1, (2, size, size, 3))
    wrapped = {f"module.{name}": array for name, array in t.float32().items()}  # by DataParallel
    wrapped |= {"module.bn1.num_batches_tracked": np.array(7)}
    check(resnet_members.FAMILY, RESNEXT, wrapped, images, resnext_numpy(t, images, False))


RESNET_IN_KERAS = {  # in the order of Keras's model
    "conv1_conv": "conv1",
    "conv1_bn": "bn1",
    "conv2_block1_1_conv": "layer1.0.conv1",
    "conv2_block1_1_bn": "layer1.0.bn1",
    "conv2_block1_2_conv": "layer1.0.conv2",
    "conv2_block1_2_bn": "layer1.0.bn2",
    "conv2_block1_0_conv": "layer1.0.downsample.0",
    "conv2_block1_3_conv": "layer1.0.conv3",
    "conv2_block1_0_bn": "layer1.0.downsample.1",
    "conv2_block1_3_bn": "layer1.0.bn3",
    **{f"conv2_block2_{i}_conv": f"layer1.1.conv{i}" for i in (1, 2, 3)},
    **{f"conv2_block2_{i}_bn": f"layer1.1.bn{i}" for i in (1, 2, 3)},
    "conv3_block1_1_conv": "layer2.0.conv1",
    "conv3_block1_1_bn": "layer2.0.bn1",
    "conv3_block1_2_conv": "layer2.0.conv2",
    "conv3_block1_2_bn": "layer2.0.bn2",
    "conv3_block1_0_conv": "layer2.0.downsample.0",
    "conv3_block1_3_conv": "layer2.0.conv3",
    "conv3_block1_0_bn": "layer2.0.downsample.1",
    "conv3_block1_3_bn": "layer2.0.bn3",
    "predictions": "fc",
}


@pytest.mark.parametrize("counted", [False, True])
def test_resnet_as_keras_has_it(counted):
    """Stride on the first convolution, biases, blue before red; names of layers, or kinds and numbers."""
    t = resnext_tensors(5, bias=True)
    images = t.rng.normal(0, 1, (2, 32, 32, 3))
    tensors = keras_tensors(t, RESNET_IN_KERAS)
    if counted:
        numbers = {"conv": 0, "bn": 0}
        layers = {"predictions": "dense"}
        for layer in list(RESNET_IN_KERAS)[:-1]:
            kind = layer.rpartition("_")[2]
            word = {"conv": "conv2d", "bn": "batch_normalization"}[kind]
            layers[layer] = f"{word}_{numbers[kind]}" if numbers[kind] else word
            numbers[kind] += 1
        order = ("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")
        places = {leaf: i for leaves in order for i, leaf in enumerate(leaves)}
        parts = {name: name.split("/") for name in tensors}
        tensors = {
            f"layers/functional/layers/{layers[parts[n][0]]}/vars/{places[parts[n][1]]}": a
            for n, a in tensors.items()
        }
    config = resnet.Config((2, 1), width=8, group_width=8, classes=5)
    want = resnext_numpy(t, images[..., ::-1], True)
    config = check(resnet_members.FAMILY, config, tensors, images, want)
    assert (config.stride_first, config.bias, config.epsilon) == (True, True, 1.001e-5)


@pytest.mark.parametrize("shortcut", ["projection", "padded"])
def test_resnet_of_basic_blocks(shortcut):
    t = Tensors(4)
    t.conv("conv1", "bn1", 4, 3, 3)
    for b, inputs, outputs in (("layer1.0", 4, 4), ("layer2.0", 4, 8)):
        t.conv(f"{b}.conv1", f"{b}.bn1", outputs, inputs, 3)
        t.conv(f"{b}.conv2", f"{b}.bn2", outputs, outputs, 3)
    if shortcut == "projection":
        t.conv("layer2.0.downsample.0", "layer2.0.downsample.1", 8, 4, 1)
    t.dense("fc", 3, 8)
    images = t.rng.normal(0, 1, (2, 10, 10, 3))
    x = np.maximum(t.layer(images, "conv1", "bn1", 1, (1, 1)), 0)
    for b, stride in (("layer1.0", 1), ("layer2.0", 2)):
        y = np.maximum(t.layer(x, f"{b}.conv1", f"{b}.bn1", stride, (1, 1)), 0)
        y = t.layer(y, f"{b}.conv2", f"{b}.bn2", 1, (1, 1))
        if stride == 2 and shortcut == "projection":
            x = t.layer(x, "layer2.0.downsample.0", "layer2.0.downsample.1", 2, (0, 0))
        elif stride == 2:
            x = np.concatenate([x[:, ::2, ::2], np.zeros((2, 5, 5, 4))], 3)
        x = np.maximum(x + y, 0)
    config = resnet.Config((1, 1), "basic", 4, stem="cifar", classes=3, shortcut=shortcut)
    check(resnet_members.FAMILY, config, t.float32(), images, t.classify(x, "fc"))
