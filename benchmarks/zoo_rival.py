"""Any torchvision-like network in PyTorch with a fake quantizer at every point where ours has one.

The model is traced by torch.fx, its batch norms are folded into the convolutions, and a quantizer is put
after the input, every activation function, every convolution that an activation function does not follow,
every sum and every mean. Weights are per output channel, activations per tensor, ranges minimum to maximum.
Two ways of rounding:
  operator   torch.fake_quantize_per_tensor_affine, what PyTorch's own tools insert
  in place   clamp and round written out in four in-place passes, faster in eager mode
Weights are rounded once per candidate, ahead of the images, and that time counts.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental import optimization

Rounding = Literal["operator", "in place"]
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.GELU, nn.Tanh)
POOLS = (nn.AdaptiveAvgPool2d,)
WEIGHTED = (nn.Conv2d, nn.Linear)


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
        self.module = _with_quantizers(optimization.fuse(model.eval()))
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
    if node.op == "placeholder":
        return True
    if not any(user.op != "output" for user in node.users):
        return False
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, (*ACTIVATIONS, *POOLS)):
        return True
    pooled = node.op == "call_function" and node.target in (F.adaptive_avg_pool2d, torch.mean)
    if pooled or (node.op == "call_method" and node.target == "mean"):
        return True
    added = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    if not added and not isinstance(module, WEIGHTED):
        return False
    following = [modules.get(str(u.target)) if u.op == "call_module" else None for u in node.users]
    functions = [u.target for u in node.users if u.op == "call_function"]
    return not (
        any(isinstance(m, ACTIVATIONS) for m in following) or {F.relu, F.relu6, torch.relu} & set(functions)
    )
