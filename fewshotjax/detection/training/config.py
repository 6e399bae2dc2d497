"""How a detector is trained: a frozen config, checked when it is made."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ...fields import check_fields

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("auto", "float32", "bfloat16")
KEEPS = ("last", "best")


@dataclass(frozen=True)
class DetectorTrainConfig:
    """Defaults: ours, for images of 64 to 128 pixels, but for those marked "authors" (RepMet's released
    code).

    Raises:
        ValueError: a field that is out of range, named with its value.
    """

    epochs: int = 10  # authors 20
    batch: int = 8  # images of a step; authors 1 a device
    steps_per_epoch: int | None = None  # None: until as many photographs were shown as there are
    optimizer: Literal["sgd", "adamw"] = "sgd"  # with plain momentum; AdamW (Loshchilov & Hutter 2019)
    learning_rate: float = 0.02  # highest, after the warm-up; authors 0.01 or 0.001
    schedule: Literal["cosine", "step"] = "cosine"  # to zero; authors "step"
    drops: tuple[float, ...] = (0.6, 0.85)  # shares of all steps after which "step" multiplies the rate by
    drop: float = 0.1  # this; authors 0.1 after epochs 4, 6, 20 and 30
    warmup_epochs: float = 0.25  # the rate rises linearly; authors 250 steps
    momentum: float = 0.9  # of sgd; authors
    weight_decay: float = 1e-4  # of weights with two and more dimensions, no biases, no norms; authors
    clip: float | None = 10.0  # norm of the whole gradient at most; None: any
    offsets_rate: float = 0.01  # of the deformable offsets, in learning rates; authors
    pyramid_rate: float = 1.0  # of the pyramid, likewise; lower ones suit one that was trained before
    ema: float = 0.998  # of the weights that are kept; 0.0: those of the last step
    mirror: bool = True  # half of the images, with their boxes; authors
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of convolutions; auto: float32 on CPUs alone
    # Images of so many steps are drawn at once. They depend on it, as each such draw has its own number.
    draw_steps: int = 50
    keep: Literal["last", "best"] = "last"  # "best": of the epoch with the least validation error

    def __post_init__(self):
        check_fields(self)
        for name in ("epochs", "batch", "draw_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1 or None, got {self.steps_per_epoch}")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("keep", KEEPS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("learning_rate", "drop"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be above 0, or None, got {self.clip}")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_epochs", "offsets_rate", "pyramid_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not isinstance(self.drops, tuple) or not all(0 < share < 1 for share in self.drops):
            raise ValueError(f"drops must be a tuple of shares between 0 and 1, got {self.drops}")
        if list(self.drops) != sorted(set(self.drops)):
            raise ValueError(f"drops must rise, got {self.drops}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs, got {self.warmup_epochs} of {self.epochs}")

    def steps(self, photographs: int, per_image: int = 1) -> int:
        """Of an epoch of so many photographs, `per_image` of them in each image."""
        return self.steps_per_epoch or max(1, photographs // (self.batch * per_image))

    @property
    def dtype(self) -> np.dtype:
        """Of the convolutions, here."""
        on_cpu = jax.default_backend() == "cpu"
        half = self.precision == "bfloat16" or (self.precision == "auto" and not on_cpu)
        return jnp.dtype(jnp.bfloat16 if half else jnp.float32)
