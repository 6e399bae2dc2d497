"""EGRL (Khadka et al. 2021): evolution and graph policies. So far the operators that NEMO shares."""

from .operators import tournament as tournament
