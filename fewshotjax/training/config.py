"""How a backbone is trained: a frozen config, checked when it is made."""

from dataclasses import dataclass

from ..fields import check_fields

OPTIMIZERS = ("sgd", "adam")
KEEPS = ("last", "best")


@dataclass(frozen=True)
class TrainConfig:
    """Defaults: ours, for photographs of 32 to 84 pixels."""

    epochs: int = 30
    batch: int = 64  # images of a step where epochs are shuffled; left aside with `ways`
    # Class-balanced batches: so many classes a step, `per_class` images each. None: shuffled epochs, each
    # image once but for an incomplete last batch.
    ways: int | None = None
    per_class: int = 4
    steps_per_epoch: int | None = None  # of balanced batches; None: as many as a shuffled epoch has
    optimizer: str = "sgd"  # "sgd": Nesterov's momentum; "adam": AdamW (Loshchilov & Hutter 2019)
    learning_rate: float = 0.05  # highest; reached after the warm-up, then a cosine to zero
    warmup_epochs: float = 0.5
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # of arrays of two and more dimensions: no biases, no batch norms
    ema: float = 0.998  # of the weights that are kept; 0.0: those of the last step
    padding: int = 4  # pixels: random shifts by up to so much; 0: none
    mirror: bool = True  # half of the images; False for characters
    keep: str = "last"  # "best": of the epoch with the least validation error, the first of equals

    def __post_init__(self):
        check_fields(self)
        for name in ("epochs", "batch", "per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, least in (("ways", 2), ("steps_per_epoch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least} or None, got {value}")
        if self.steps_per_epoch is not None and self.ways is None:
            raise ValueError(
                f"steps_per_epoch={self.steps_per_epoch} is for balanced batches: set ways, or leave it out"
            )
        for name, known in (("optimizer", OPTIMIZERS), ("keep", KEEPS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("weight_decay", "padding", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs, got {self.warmup_epochs} of {self.epochs}")

    @property
    def size(self) -> int:
        """Examples of a step."""
        return self.batch if self.ways is None else self.ways * self.per_class

    def steps(self, examples: int) -> int:
        """Of an epoch of so many examples."""
        return self.steps_per_epoch or max(1, examples // self.size)
