"""What `improve` does, and how long: a frozen config, checked when it is made."""

from dataclasses import dataclass
from typing import Literal

from hwmodel import check_fields


@dataclass(frozen=True)
class PTQConfig:
    """Steps of post-training quantization, in their order. Origin of defaults: P paper, O ours."""

    equalize: bool = False  # cross-layer equalization (Nagel et al. 2019)
    correct_bias: bool = False  # empirical bias correction (Nagel et al. 2019)
    reconstruct: Literal["layer", "block"] | None = None  # AdaRound, or blocks as in BRECQ
    # Of the reconstruction:
    steps: int = 500  # O, per unit; the papers take 10,000 to 20,000
    batch: int = 32  # P: samples a step, at most
    step_elements: int = (
        400_000  # O: a unit's larger activations take fewer samples, so that steps cost alike
    )
    learning_rate: float = 0.03  # O: of V, with Adam; suits few steps
    regularization: float = 0.3  # O: weight of the rounding regulariser; see reconstruction.py
    warmup: float = 0.2  # P: share of the steps without it
    beta: tuple[float, float] = (20.0, 2.0)  # P: its exponent, from and to
    learn_activations: bool = False  # activations' step sizes along with the rounding (LSQ, BRECQ)
    activation_rate: float = 1e-3  # O: of the logarithm of a step size, with Adam
    # O: share of the samples that are not learned from and decide whether a unit is better than rounded to
    # nearest. With a hundred samples a classifier's rounding is learned by heart; 0: all do both.
    held_out: float = 0.25
    drop: float = 0.0  # share of activations left as they are at random in training; QDrop takes 0.5

    def __post_init__(self):
        check_fields(self)
        if self.reconstruct not in (None, "layer", "block"):
            raise ValueError(f"reconstruct must be None, 'layer' or 'block', got {self.reconstruct!r}")
        for name in ("steps", "batch", "step_elements"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "activation_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.regularization >= 0:
            raise ValueError(f"regularization must be at least 0, got {self.regularization}")
        for name in ("warmup", "drop", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not self.beta[0] >= self.beta[1] > 0:
            raise ValueError(f"beta must fall from a number to one above 0, got {self.beta}")
        if self.learn_activations and self.reconstruct is None:
            raise ValueError("learn_activations is part of a reconstruction: set reconstruct, too")
