"""Rivals of EGRL in the same environment, at the same budget.

`SEARCHES` has those that are called f(key, env, budget) -> Course: pure, to be jitted with the budget static
and vmapped over keys.
"""

from collections.abc import Callable
from functools import partial

from .course import (
    Course as Course,
    Trials as Trials,
    course_from as course_from,
    settle as settle,
    shortlist as shortlist,
)
from .ea_direct import EADirectConfig as EADirectConfig, ea_direct as ea_direct
from .ea_margins import EAMarginsConfig as EAMarginsConfig, ea_margins as ea_margins
from .greedy_dp import greedy_dp as greedy_dp
from .local_search import local_search as local_search
from .random_search import random_search as random_search
from .rules import rules as rules
from .strategies import STRATEGIES as STRATEGIES, evosax_search as evosax_search
from .white_box import WhiteBox as WhiteBox, exact as exact, gradient as gradient

SEARCHES: dict[str, Callable[..., Course]] = {
    "random_search": random_search,
    "greedy_dp": greedy_dp,
    "ea_direct": ea_direct,
    "ea_margins": ea_margins,
    "local_search": local_search,
    **{name: partial(evosax_search, name=name) for name in STRATEGIES},
}
