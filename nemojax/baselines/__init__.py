"""What a search is compared with at equal evaluations, and seeds for it from the same methods."""

from .draws import BASELINES as BASELINES, Baseline as Baseline, warm_start as warm_start
from .greedy import greedy_front as greedy_front, greedy_path as greedy_path
from .knapsack import Knapsack as Knapsack, knapsack_front as knapsack_front
from .shares import Shares as Shares
