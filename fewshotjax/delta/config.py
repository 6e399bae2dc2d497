"""Shapes and branches of the Delta-encoder, and how it is trained: frozen configs, checked when made.

Defaults are the authors' released code's, but where a line says otherwise; the paper was not at hand.
"""

import math
from dataclasses import dataclass

from ..fields import check_fields

LOSSES = ("weighted", "l1", "l2")
PAIRS = ("random", "no_self", "nearest", "shuffled_labels")
SCALINGS = ("none", "l2", "standard")
KEEPS = ("last", "best")
MOST_LAYERS = 1000  # each is traced by itself


@dataclass(frozen=True)
class DeltaConfig:
    """Encoder and decoder."""

    hidden: int = 8192  # width of each hidden layer
    code: int = 16  # width of z
    layers: int = 1  # hidden layers of the encoder, and of the decoder
    slope: float = 0.2  # of the leaky ReLU below zero
    dropout: float = 0.5  # share of hidden units left out in training; none at synthesis
    init_std: float = 0.01  # of the normal weights; biases start at 0
    loss: str = "weighted"  # "l1", "l2": means over the features, ours
    stop_gradient_weights: bool = False  # True, ours: the weights of the loss count as constants
    # References: "random" permutation within each class, a sample may be its own; ours: "no_self", "nearest"
    # (always the nearest of the class), "shuffled_labels" (of any class: the control that must do worse).
    pairs: str = "random"
    scaling: str = "none"  # of features, by statistics of the base classes; "l2", "standard": ours

    def __post_init__(self):
        check_fields(self)
        for name in ("hidden", "code", "layers"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers must be at most {MOST_LAYERS}, got {self.layers}")
        for name in ("slope", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.init_std < math.inf:
            raise ValueError(f"init_std must be above 0 and finite, got {self.init_std}")
        for name, known in (("loss", LOSSES), ("pairs", PAIRS), ("scaling", SCALINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.stop_gradient_weights and self.loss != "weighted":
            raise ValueError(f"stop_gradient_weights is for loss='weighted', got loss={self.loss!r}")


@dataclass(frozen=True)
class DeltaTrainConfig:
    """Adam on all pairs, epoch after epoch."""

    learning_rate: float = 1e-5  # of the first epoch
    batch: int = 128  # pairs of a step
    epochs: int = 6  # of the authors' 1-shot runs; 12 of their 5-shot ones
    decay: float = 0.9  # times the rate after an epoch whose mean loss is above the least so far; 1: never
    keep: str = "last"  # ours, "best": of the epoch with the least validation error, the first of equals

    def __post_init__(self):
        check_fields(self)
        for name in ("batch", "epochs"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")
        if self.keep not in KEEPS:
            raise ValueError(f"keep must be one of {', '.join(KEEPS)}, got {self.keep!r}")
