"""How a network is trained: a frozen config, checked when it is made."""

from dataclasses import dataclass

from hwmodel import check_fields


@dataclass(frozen=True)
class TrainConfig:
    """Stochastic gradient descent with Nesterov momentum on a cosine. Defaults: ours, for CIFAR-10."""

    epochs: int = 30
    batch: int = 128
    learning_rate: float = 0.1  # highest; reached after the warm-up, then a cosine to zero
    warmup_epochs: float = 2.0
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of kernels; biases and batch norms are left alone
    label_smoothing: float = 0.1
    ema: float = 0.998  # of the weights that are kept; 0: those of the last step
    padding: int = 4  # pixels: random crops of images padded by so much, half of them mirrored; 0: neither
    cutout: int = 0  # pixels of a side of the square that is set to zero (DeVries & Taylor 2017); 0: none
    # Pixels of a side that images are scaled to, each for an equal share of the epochs; (): as they are.
    # Small ones first are quick ("progressive resizing", Howard 2018); the last should be full size.
    resolutions: tuple[int, ...] = ()

    def __post_init__(self):
        check_fields(self)
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("weight_decay", "padding", "cutout", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs, got {self.warmup_epochs} of {self.epochs}")
        if any(pixels < 1 for pixels in self.resolutions) or len(self.resolutions) > self.epochs:
            raise ValueError(
                f"resolutions must be pixels above 0, at most one for each of {self.epochs} epochs, "
                f"got {self.resolutions}"
            )

    def pixels(self, epoch: int) -> int | None:
        """Of the images in an epoch, counted from 0; None: as they are."""
        if not self.resolutions:
            return None
        return self.resolutions[epoch * len(self.resolutions) // self.epochs]
