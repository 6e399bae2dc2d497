"""Few-shot methods on the same episodes, by name or as functions."""

from .linear import linear_head as linear_head, logistic as logistic, ridge as ridge
from .means import prototypes as prototypes, simpleshot as simpleshot
from .method import Method as Method, through as through
from .neighbours import matching as matching, nearest_neighbour as nearest_neighbour
from .registry import METHODS as METHODS, by_name as by_name, register as register
from .representatives import RepMet as RepMet, Tuning as Tuning, repmet as repmet
