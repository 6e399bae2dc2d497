"""The zoo's networks in PyTorch, from their own packages, with weights and batch-norm statistics drawn."""

import functools
import importlib
import importlib.util
import math
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


def _lite(number: int, resolution: int) -> nn.Module:
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


class Encoder(nn.Module):
    """BERT's encoder (Devlin et al. 2019) with the tokens' mean as its output."""

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
        self.layers, self.heads = nn.ModuleList(layer), heads

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]])
        for layer in self.layers:
            split = [
                layer[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            ]
            y = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
            x = layer["norm1"](x + layer["out"](y))
            x = layer["norm2"](x + layer["down"](F.gelu(layer["up"](x))))
        return x.mean(1)


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
        **{f"efficientnet_lite{n}": functools.partial(_lite, n, resolution) for n in (0, 1, 2)},
    }
    if name not in makers:
        raise ValueError(f"no PyTorch network is known for {name!r}; there are {', '.join(makers)}")
    return draw(makers[name]())


def state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names of the network's own package: `_plain` put some layers deeper."""
    names = {name: name for name in model.state_dict()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.ZeroPad2d):
            names[f"{name}.1.weight"] = f"{name}.weight"
    return {names[name]: tensor for name, tensor in model.state_dict().items()}
