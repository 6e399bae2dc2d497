"""The zoo beside torchvision and timm, with random weights and statistics, through real .pth files."""

import warnings

import jax
import numpy as np
import pytest

from nemojax.calibration import QuantizerConfig
from nemojax.networks import by_name
from nemojax.quantized import QuantizedNetwork, quantize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def torchvision(torch):
    """Where its operators do not load, two stubs stand in for those that its import asks for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchvision
    except (ImportError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision = pytest.importorskip("torchvision")
        torchvision.kept_alive = library
    return torchvision


@pytest.fixture(scope="module")
def timm(torch, torchvision):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm")


def randomized(torch, model, seed=0):
    """Batch norms away from the identity; convolutions as the model drew them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def reference(torch, model, images):
    with torch.no_grad():
        return model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()


def draw(size, count=2):
    return np.random.default_rng(size).normal(size=(count, size, size, 3)).astype(np.float32)


def check(network, images, want, tolerance=1e-4):
    """Plain Flax and the interpreter, both within `tolerance` of the largest logit."""
    plain = np.asarray(jax.jit(network.apply)(network.params, images))
    quantized = quantize(network, images, QuantizerConfig(activation_range="minmax"))
    through = np.asarray(jax.jit(QuantizedNetwork.logits)(quantized, images))
    for found in (plain, through):
        assert np.abs(found - want).max() <= tolerance * np.abs(want).max()
    return quantized


@pytest.mark.parametrize(
    ("name", "points"),
    [("mobilenet_v2", 117), ("resnet50", 125), ("resnet101", 244), ("resnext101_32x8d", 244)],
)
def test_logits_equal_torchvision(torch, torchvision, tmp_path, name, points):
    torch.manual_seed(1)
    model = randomized(torch, getattr(torchvision.models, name)(weights=None))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    network = by_name(name, tmp_path / "net.pth")
    images = draw(224)
    quantized = check(network, images, reference(torch, model, images))
    assert len(quantized.workload.points) == points


@pytest.mark.parametrize("size", [64, 75])
def test_other_sizes_and_classes(torch, torchvision, tmp_path, size):
    model = randomized(torch, torchvision.models.mobilenet_v2(weights=None, num_classes=7, width_mult=0.75))
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    network = by_name("mobilenet_v2", tmp_path / "net.pth", classes=7, width=0.75)
    images = draw(size)
    check(network, images, reference(torch, model, images))
    with pytest.raises(ValueError, match="give classes=7"):
        by_name("mobilenet_v2", tmp_path / "net.pth", width=0.75)


@pytest.mark.parametrize(
    ("name", "theirs", "options", "size"),
    [
        ("mobilenet_v2", "mobilenetv2_100", {}, 96),
        ("mobilenet_v2", "mobilenetv2_050", {"width": 0.5}, 96),
        ("mobilenet_v2", "mobilenetv2_140", {"width": 1.4}, 96),
        ("efficientnet_lite0", "tf_efficientnet_lite0", {}, 96),
        ("efficientnet_lite0", "tf_efficientnet_lite0", {}, 75),
        ("efficientnet_lite1", "tf_efficientnet_lite1", {}, 96),
        ("efficientnet_lite2", "tf_efficientnet_lite2", {}, 96),
        ("resnet50", "resnet50", {}, 96),
        ("resnext101_32x8d", "resnext101_32x8d", {}, 64),
    ],
)
def test_logits_equal_timm(torch, timm, tmp_path, name, theirs, options, size):
    """Plain Flax alone: the interpreter has been compared above."""
    torch.manual_seed(2)
    model = randomized(torch, timm.create_model(theirs))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    network = by_name(name, tmp_path / "net.pth", **options)
    images = draw(size)
    want = reference(torch, model, images)
    found = np.asarray(jax.jit(network.apply)(network.params, images))
    assert np.abs(found - want).max() <= 1e-4 * np.abs(want).max()


def test_a_safetensors_file_and_half_precision(torch, torchvision, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = randomized(torch, torchvision.models.resnet50(weights=None))
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    safetensors.save_file(state, tmp_path / "net.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    network = by_name("resnet50", tmp_path / "net.safetensors")
    images = draw(64)
    found = np.asarray(jax.jit(network.apply)(network.params, images))
    want = reference(torch, model, images)
    assert np.abs(found - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize(("name", "other"), [("resnet50", "resnet101"), ("mobilenet_v2", "resnet50")])
def test_weights_of_another_architecture(torch, torchvision, tmp_path, name, other):
    torch.save(getattr(torchvision.models, other)(weights=None).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"net\.pth: its tensors are not those of {name} as .* tensors are"):
        by_name(name, tmp_path / "net.pth")
