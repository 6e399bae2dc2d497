"""How objectives outside JAX are measured: how many at once, how long, how often."""

import math
from dataclasses import dataclass

from hwmodel import check_fields


@dataclass(frozen=True)
class ExternalConfig:
    """Of a pool of calls that leave JAX."""

    workers: int = 4  # calls at once; 1 for a single board
    timeout_s: float = 60.0  # of one attempt
    retries: int = 2  # further attempts after one that failed
    backoff_s: float = 0.5  # before the second attempt; twice as long before each further one ...
    backoff_limit_s: float = 30.0  # ... up to this
    cooldown_s: float = 0.0  # a worker's rest after each attempt, for a board that must cool down
    # Calls of plain functions that may run on past their time limit, since a thread cannot be killed.
    abandoned: int = 8
    in_a_row: int | None = None  # items that may fail one after the other before it is an error; None: all

    def __post_init__(self):
        check_fields(self)
        for name, least in (("workers", 1), ("retries", 0), ("abandoned", 0), ("in_a_row", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not (self.timeout_s > 0 and math.isfinite(self.timeout_s)):
            raise ValueError(
                f"timeout_s must be above 0 and finite, got {self.timeout_s}: a call that hangs would hold "
                "its worker for good"
            )
        for name in ("backoff_s", "backoff_limit_s", "cooldown_s"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")

    def wait_s(self, attempt: int) -> float:
        """Seconds after the failed attempt k = 1, 2, ...: min(backoff · 2^(k - 1), limit)."""
        return min(self.backoff_s * 2.0 ** min(attempt - 1, 64), self.backoff_limit_s)
