"""Quantization-aware training of chosen configurations, and of whole fronts."""

from .config import QATConfig as QATConfig
from .fronts import qat_front as qat_front
from .training import QATState as QATState, qat as qat
