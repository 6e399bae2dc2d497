"""The zoo's networks in PyTorch, from their own packages, with weights and batch-norm statistics drawn."""

import functools
import importlib
import importlib.util
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.cache
def torchvision() -> tuple[Any, Any]:
    """The package, and what must live as long: beside a PyTorch of another build it lacks its compiled
    operators, which its networks do not need, so their names are defined.
    """
    library = None
    if importlib.util.find_spec("torchvision") is None:
        raise ValueError("torchvision is not installed: pip install --no-deps torchvision==0.28.0")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision"), library


def _torchvision_model(name: str) -> nn.Module:
    return getattr(torchvision()[0].models, name)(weights=None)


def lite(number: int, resolution: int) -> nn.Module:
    """EfficientNet-Lite with plain convolutions, which torch.fx and the folding of batch norms know."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    name = f"efficientnet-lite{number}"
    model = EfficientNet.from_name(name, image_size=resolution, drop_connect_rate=0.0)
    for module in list(model.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(module, child_name, _plain(child))
    return model


def _plain(conv: nn.Conv2d) -> nn.Module:
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        tuple(conv.stride),  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.load_state_dict({k: v for k, v in conv.state_dict().items() if k in ("weight", "bias")})
    pad = getattr(conv, "static_padding", None)
    if not isinstance(pad, nn.ZeroPad2d):
        return plain
    left, right, top, bottom = pad.padding
    if left == right == top == bottom:
        plain.padding = (top, left)
        return plain
    return nn.Sequential(pad, plain)


class SmallResNet(nn.Sequential):
    """ResNet-20 and ResNeXt-29 for 32x32 images, of torchvision's blocks."""

    def __init__(self, block: Any, repeats: int, width: int, groups: int = 1, group_width: int = 64):
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, width, 3, 1, 1, bias=False),
            "bn1": nn.BatchNorm2d(width),
            "relu": nn.ReLU(),
        }
        channels = width
        for stage in range(3):
            inner, blocks = width * 2**stage, []
            for i in range(repeats):
                stride, outer = 2 if stage and not i else 1, inner * block.expansion
                shortcut = None
                if stride > 1 or channels != outer:
                    convolution = nn.Conv2d(channels, outer, 1, stride, bias=False)
                    shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outer))
                # torchvision counts a group's channels as of 64 in a stage of 64: of `width` here.
                per_group = group_width if groups == 1 else group_width * 64 // width
                blocks.append(block(channels, inner, stride, shortcut, groups, per_group))
                channels = outer
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        ends = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, 10)}
        super().__init__(OrderedDict(layers | ends))


def _small_mobilenet() -> nn.Module:
    """torchvision's MobileNet-V2 with strides 1 in the stem and the second stage, for 32x32 images."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
    settings = [list(stage) for stage in (*stages, (6, 320, 1, 1))]
    model = torchvision()[0].models.MobileNetV2(num_classes=10, inverted_residual_setting=settings)
    model.features[0][0].stride = (1, 1)
    return model


class Encoder(nn.Module):
    """BERT's encoder (Devlin et al. 2019) of unmasked tokens: every token is an output.

    `fused`: PyTorch's one operator for attention, which leaves no place for quantizers; the same numbers.
    """

    def __init__(self, layers: int, hidden: int, heads: int, feed_forward: int, vocabulary: int, tokens: int):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, hidden), nn.Embedding(tokens, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        layer = [
            nn.ModuleDict(
                {name: nn.Linear(hidden, hidden) for name in ("query", "key", "value", "out")}
                | {"up": nn.Linear(hidden, feed_forward), "down": nn.Linear(feed_forward, hidden)}
                | {name: nn.LayerNorm(hidden, eps=1e-12) for name in ("norm1", "norm2")}
            )
            for _ in range(layers)
        ]
        self.layers, self.heads, self.width = nn.ModuleList(layer), heads, hidden // heads
        self.fused = False

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.places.weight)
        for layer in self.layers:
            query, key, value = (
                layer[name](x).unflatten(2, (self.heads, self.width)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            if self.fused:
                y = F.scaled_dot_product_attention(query, key, value)
            else:
                scores = torch.matmul(query * self.width**-0.5, key.transpose(2, 3))
                y = torch.matmul(torch.softmax(scores, 3), value)
            x = layer["norm1"](x + layer["out"](y.transpose(1, 2).flatten(2)))
            x = layer["norm2"](x + layer["down"](F.gelu(layer["up"](x))))
        return x


def draw(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in inference mode, weights of variance 2 / fan-in, batch norms off the identity."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.0),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                ):
                    tensor.copy_(uniform(tensor, low, high))  # type: ignore[union-attr, arg-type]
            elif isinstance(module, nn.Conv2d | nn.Linear):
                shape = module.weight.shape
                normal = torch.randn(shape, generator=generator)
                module.weight.copy_(normal * math.sqrt(2 / math.prod(shape[1:])))
            elif isinstance(module, nn.Embedding):
                module.weight.copy_(0.02 * torch.randn(module.weight.shape, generator=generator))
    return model.eval()


def convolutional(name: str, resolution: int) -> nn.Module:
    """The PyTorch network behind one of the zoo's names.

    Raises:
        ValueError: there is none.
    """
    makers: Mapping[str, Callable[[], nn.Module]] = {
        **{
            tv: functools.partial(_torchvision_model, tv)
            for tv in ("mobilenet_v2", "resnet50", "resnet101", "resnext101_32x8d")
        },
        **{f"efficientnet_lite{n}": functools.partial(lite, n, resolution) for n in (0, 1, 2)},
        "mobilenet_v2_cifar": _small_mobilenet,
        "resnet20_cifar": lambda: SmallResNet(torchvision()[0].models.resnet.BasicBlock, 3, 16),
        "resnext29_cifar": lambda: SmallResNet(torchvision()[0].models.resnet.Bottleneck, 3, 64, 8, 64),
    }
    if name not in makers:
        raise ValueError(f"no PyTorch network is known for {name!r}; there are {', '.join(makers)}")
    return draw(makers[name]())


def encoder(name: str, tokens: int) -> nn.Module:
    """BERT-base or MiniLM with `tokens` positions."""
    layers, hidden, feed_forward = {"bert_base": (12, 768, 3072), "minilm_l6": (6, 384, 1536)}[name]
    return draw(Encoder(layers, hidden, 12, feed_forward, 30_522, tokens))


def load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state`."""
    ours = model.state_dict()
    theirs = {there: here for here, there in zip(ours, state(model), strict=True)}
    model.load_state_dict({theirs[name]: tensor for name, tensor in tensors.items()})


def state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names of the network's own package: `_plain` put some layers deeper."""
    if isinstance(model, Encoder):
        return _hugging_face(model.state_dict())
    names = {name: name for name in model.state_dict()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and len(module) and isinstance(module[0], nn.ZeroPad2d):
            names[f"{name}.1.weight"] = f"{name}.weight"
    return {names[name]: tensor for name, tensor in model.state_dict().items()}


def _hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the positions that are not used at zero, and segments that add nothing."""
    places = {"words": "word_embeddings", "places": "position_embeddings", "norm": "LayerNorm"}
    inside = {
        **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
        **{"out": "attention.output.dense", "norm1": "attention.output.LayerNorm"},
        **{"up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm"},
    }
    found = {}
    for name, tensor in tensors.items():
        *first, layer, kind = name.split(".")
        there = f"encoder.layer.{first[1]}.{inside[layer]}" if first else f"embeddings.{places[layer]}"
        found[f"{there}.{kind}"] = tensor
    used = found["embeddings.position_embeddings.weight"]
    found["embeddings.position_embeddings.weight"] = F.pad(used, (0, 0, 0, 512 - len(used)))
    found["embeddings.token_type_embeddings.weight"] = torch.zeros(2, used.shape[1])
    return found
