"""What a search is compared with at equal evaluations."""

from .draws import BASELINES as BASELINES, Baseline as Baseline
from .greedy import greedy_front as greedy_front, greedy_path as greedy_path
from .knapsack import Knapsack as Knapsack, knapsack_front as knapsack_front
from .proxy import proxy_front as proxy_front
