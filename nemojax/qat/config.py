"""How quantization-aware training runs: a frozen config, checked when it is made."""

from dataclasses import dataclass

from hwmodel import check_fields


@dataclass(frozen=True)
class QATConfig:
    """How long and how fast. Origin of defaults: ours, for networks of CIFAR's size."""

    steps: int = 500
    batch: int = 64  # samples a step
    learning_rate: float = 3e-4  # highest; of weights, with Adam and a cosine to zero
    range_rate: float = 1e-3  # highest; of log step sizes, and of zero points in units of 2^b - 1
    warmup: float = 0.05  # share of the steps in which the rates rise
    learn_ranges: bool = True
    distill: float = 1.0  # weight of KL(full precision || quantized), against 1 - it of the labels' loss
    chunk: int = 100  # steps between two calls of `on_chunk`

    def __post_init__(self):
        check_fields(self)
        for name in ("steps", "batch", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "range_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
