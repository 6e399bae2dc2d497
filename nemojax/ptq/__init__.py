"""Post-training quantization at few bits: equalization, learned rounding, bias correction."""

from nemojax.ptq.bias import correct_bias as correct_bias
from nemojax.ptq.config import PTQConfig as PTQConfig
from nemojax.ptq.equalization import equalize as equalize
from nemojax.ptq.pairs import Pair as Pair, find_pairs as find_pairs
from nemojax.ptq.pipeline import equalized as equalized, improve as improve
from nemojax.ptq.reconstruction import UnitReport as UnitReport, reconstruct as reconstruct
from nemojax.ptq.units import Unit as Unit, find_units as find_units
