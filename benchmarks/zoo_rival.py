"""Any torchvision-like network or encoder in PyTorch, a fake quantizer at every point where ours has one.

The model is traced by torch.fx, its batch norms are folded into the convolutions, and a quantizer is put
after an input of real numbers, every activation function, layer norm and softmax, every convolution, dense
layer and product that an activation function does not follow, every sum and every mean. Weights are per
output channel, activations per tensor, ranges minimum to maximum.
Two ways of rounding:
  operator   torch.fake_quantize_per_tensor_affine, what PyTorch's own tools insert
  in place   clamp and round written out in four in-place passes, faster in eager mode
Weights are rounded once per candidate, ahead of the images, and that time counts.
"""

import copy
import operator
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental import optimization

Rounding = Literal["operator", "in place"]
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.GELU, nn.Tanh)
ACTIVATION_FUNCTIONS = {F.relu, F.relu6, torch.relu, F.gelu}
OTHERS = (nn.AdaptiveAvgPool2d, nn.LayerNorm)
FUNCTIONS = {F.adaptive_avg_pool2d, torch.mean, torch.softmax, torch.matmul, operator.add, operator.iadd}
WEIGHTED = (nn.Conv2d, nn.Linear, nn.Embedding)


class Quantizer(nn.Module):
    """Full precision until `bits` is set; watches its extremes while `watching`."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.bits = 0.0, 0.0, 0
        self.watching = False
        self.rounding: Rounding = "operator"

    def forward(self, x: Tensor) -> Tensor:
        if self.watching:
            self.low, self.high = min(self.low, x.min().item()), max(self.high, x.max().item())
        if not self.bits:
            return x
        scale = (self.high - self.low) / (2**self.bits - 1) or 1.0
        first = round(self.low / scale)
        last = first + 2**self.bits - 1
        if self.rounding == "operator":
            return torch.fake_quantize_per_tensor_affine(x, scale, -first, 0, last - first)
        return x.div(scale).clamp_(first, last).round_().mul_(scale)


class Rival:
    """A traced model; `bits` follow `points`: input, then weights and activations as they run."""

    def __init__(self, model: nn.Module):
        self.plain = model.eval()
        if any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
            self.plain = optimization.fuse(self.plain)
        self.module = _with_quantizers(copy.deepcopy(self.plain))
        if hasattr(model, "fused"):
            model.fused = True
        self.plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module.to(memory_format=torch.channels_last)
        self.quantizers = dict(_named(self.module, Quantizer))
        self.weights = {name: layer.weight.detach().clone() for name, layer in _named(self.module, WEIGHTED)}

    @torch.inference_mode()
    def calibrate(self, images: Tensor) -> None:
        for quantizer in self.quantizers.values():
            quantizer.watching = True
        self.module(images)
        for quantizer in self.quantizers.values():
            quantizer.watching = False

    @torch.inference_mode()
    def full_precision(self, inputs: Tensor, chunk: int) -> Tensor:
        """Logits without a quantizer, `chunk` rows at a time."""
        return torch.cat([self.plain(part) for part in inputs.split(chunk)])

    @torch.inference_mode()
    def run(self, images: Tensor, chunk: int) -> Tensor:
        """Logits at the bit-widths set last, `chunk` images at a time."""
        return torch.cat([self.module(part) for part in images.split(chunk)])

    @torch.inference_mode()
    def candidate(
        self, weights: Sequence[int], activations: Sequence[int], images: Tensor, chunk: int, how: Rounding
    ) -> Tensor:
        """Logits with these bit-widths (0: full precision), weights rounded anew."""
        for (name, layer), bits in zip(_named(self.module, WEIGHTED), weights, strict=True):
            full = self.weights[name]
            layer.weight.copy_(_by_channel(full, bits) if bits else full)
        for quantizer, bits in zip(self.quantizers.values(), activations, strict=True):
            quantizer.bits, quantizer.rounding = bits, how
        return self.run(images, chunk)


def _by_channel(weight: Tensor, bits: int) -> Tensor:
    axes = tuple(range(1, weight.ndim))
    low = weight.amin(axes, keepdim=True).clamp(max=0)
    scale = (weight.amax(axes, keepdim=True).clamp(min=0) - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, 1)
    first = (low / scale).round_()
    return (weight / scale).clamp_(first, first + (2**bits - 1)).round_().mul_(scale)


def _named(module: nn.Module, kind: type | tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    return ((name, child) for name, child in module.named_modules() if isinstance(child, kind))


def _with_quantizers(model: nn.Module) -> fx.GraphModule:
    """The traced model with a Quantizer behind every node that makes a tensor of ours."""
    traced = fx.symbolic_trace(model)
    for module in traced.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # what a quantizer has seen must not change behind it
    modules = dict(traced.named_modules())
    for number, node in enumerate(list(traced.graph.nodes)):
        if not _is_point(node, modules):
            continue
        name = f"quantizer_{number}"
        traced.add_submodule(name, Quantizer())
        with traced.graph.inserting_after(node):
            behind = traced.graph.call_module(name, (node,))
        node.replace_all_uses_with(behind, delete_user_cb=lambda user, own=behind: user is not own)
    traced.recompile()
    return traced


def _is_point(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if not any(user.op != "output" for user in node.users):
        return False
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if node.op == "placeholder":  # token ids are not rounded: they go to a table
        following = [modules.get(str(user.target)) for user in node.users]
        return not any(isinstance(other, nn.Embedding) for other in following)
    if isinstance(module, (*ACTIVATIONS, *OTHERS)) or (node.op == "call_method" and node.target == "mean"):
        return True
    if node.op == "call_function" and node.target in ACTIVATION_FUNCTIONS:
        return True
    if isinstance(module, nn.Embedding):  # the sum behind it is
        return False
    if not isinstance(module, WEIGHTED) and not (node.op == "call_function" and node.target in FUNCTIONS):
        return False
    following = [modules.get(str(u.target)) if u.op == "call_module" else None for u in node.users]
    functions = {u.target for u in node.users if u.op == "call_function"}
    return not (any(isinstance(m, ACTIVATIONS) for m in following) or ACTIVATION_FUNCTIONS & functions)
