"""An exact search of our own: depth first over packings in which nothing can move down.

After Moffitt 2023, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated Machine Learning"
(canonical packings, orders by section load, bounds per section, independent parts) with restarts.
"""

import hashlib
import itertools
import time
from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from .task import Answer, Task

_FAR = 2**62
_FIRST_NODES = 2000  # of each restart of the first round
_GROWTH = 1.2  # from round to round
_MEMORY = 0.8  # of failures, from restart to restart
_NOISE = 0.1  # of shapes, after a first round without
_RULES = (  # what failures in a rectangle's sections add up to, and which shapes come first
    *((combine, shape) for combine in (np.max, np.sum) for shape in ("long", "large", "high")),
    (None, "wide"),
)
_CHECK_NODES = 256  # between two looks at the clock


class _Part(NamedTuple):
    """What is still to be placed and linked in time; arrays over its rectangles, most urgent first."""

    rank: np.ndarray  # of the rectangles, in the order of this restart
    floor: np.ndarray  # lowest offset above all that is placed in its sections
    least: int  # no later offset is lower ...
    last: int  # ... and at that offset, no later rectangle comes earlier in the order


class _OutOfNodes(Exception):
    pass


def solve(task: Task, time_limit_s: float = 60.0, seed: int = 0) -> Answer:
    """Offsets that fit the capacity, or a proof that there are none, or neither within the limit.

    The search starts again and again with a growing number of nodes, each time with the rectangles of those
    sections first in which it failed most before. `seed` draws small variations of the orders.
    """
    stop = time.monotonic() + time_limit_s
    bound = task.bound()
    if bound > task.capacity:
        return Answer(None, bound)
    rng = np.random.default_rng(seed)
    failures = np.zeros(max(task.upper))  # per section
    for restart in itertools.count():
        nodes = int(_FIRST_NODES * _GROWTH ** (restart // len(_RULES)))
        search = _Search(task, _order(task, failures, restart, rng), nodes, stop)
        try:
            found = search.run()
        except _OutOfNodes:
            if time.monotonic() >= stop:
                break
        else:
            return Answer(None, task.capacity + 1) if found is None else Answer(found, bound)
        failures = _MEMORY * failures + search.failures
    return Answer(None, bound)


def _order(task: Task, failures: np.ndarray, restart: int, rng: np.random.Generator) -> np.ndarray:
    """Rectangles, most urgent first: by failures (in powers of two), highest load, and a shape."""
    combine, shape = _RULES[restart % len(_RULES)]
    spans = list(zip(task.lower, task.upper, strict=True))
    load = np.array(task.load())
    total = np.array([load[a:b].max() for a, b in spans])
    failed = np.array([combine(failures[a:b]) if combine else 0.0 for a, b in spans])
    duration, size = np.array(task.duration), np.array(task.size)
    sections = np.array([b - a for a, b in spans])
    first = {
        "long": duration,
        "large": duration * size,
        "high": size,
        "wide": sections,
    }[shape]
    turn = restart // len(_RULES)
    noise = np.exp(_NOISE * rng.standard_normal(task.n)) if turn else 1.0
    keys = (np.floor(np.log2(1 + failed)), total, first * noise, duration * size * noise)
    return np.lexsort([-key for key in keys[::-1]])


def _digest(*arrays: np.ndarray) -> bytes:
    return hashlib.blake2b(b"".join(a.tobytes() for a in arrays), digest_size=16).digest()


class _Search:
    """One depth-first search with one order; raises _OutOfNodes at its limit."""

    def __init__(self, task: Task, order: np.ndarray, nodes: int, stop: float):
        self.order, self.nodes, self.stop = order, nodes, stop
        self.lower = np.array(task.lower)[order]
        self.upper = np.array(task.upper)[order]
        self.size = np.array(task.size)[order]
        self.capacity = task.capacity
        fixed = [task.fixed[i] for i in order]
        self.start = np.array([0 if at is None else at for at in fixed])
        self.latest = np.array(
            [task.capacity - s if at is None else at for at, s in zip(fixed, self.size, strict=True)]
        )
        self.meets = (self.lower[:, None] < self.upper) & (self.lower < self.upper[:, None])
        sections = np.arange(max(task.upper))
        self.live = (self.lower[:, None] <= sections) & (sections < self.upper[:, None])
        self.offsets = np.zeros(task.n, np.int64)
        self.failures = np.zeros(len(sections))
        self.hopeless: dict[bytes, tuple[int, int]] = {}

    def run(self) -> tuple[int, ...] | None:
        """Offsets in the order of the task; None: there are none. A stack of generators, not recursion."""
        stack = [self._place_all(self._split(np.arange(len(self.order)), self.start, 0, -1))]
        answer: bool | None = None
        while stack:
            try:
                part = stack[-1].send(answer)
                stack.append(self._place(part))
                answer = None
            except StopIteration as end:
                stack.pop()
                answer = end.value
        if not answer:
            return None
        offsets = np.empty_like(self.offsets)
        offsets[self.order] = self.offsets
        return tuple(offsets.tolist())

    def _split(self, rank: np.ndarray, floor: np.ndarray, least: int, last: int) -> list[_Part]:
        """Parts without a common section, the smallest first."""
        lower = self.lower[rank]
        by_birth = np.argsort(lower, kind="stable")
        end = np.maximum.accumulate(self.upper[rank][by_birth])
        cuts = np.flatnonzero(lower[by_birth][1:] >= end[:-1]) + 1
        if not len(cuts):
            return [_Part(rank, floor, least, last)]
        groups = sorted(np.split(by_birth, cuts), key=len)
        return [_Part(rank[g], floor[g], least, last) for g in map(np.sort, groups)]

    def _place_all(self, parts: list[_Part]) -> Generator[_Part, bool | None, bool]:
        for part in parts:
            if not (yield part):
                return False
        return True

    def _place(self, part: _Part) -> Generator[_Part, bool | None, bool]:
        """True once every rectangle of the part has its offset; False if there is no way."""
        self.nodes -= 1
        if self.nodes < 0 or (self.nodes % _CHECK_NODES == 0 and time.monotonic() > self.stop):
            raise _OutOfNodes
        rank, floor = part.rank, part.floor
        candidates = self._next(part)
        if not len(candidates):
            return False
        state, since = _digest(rank, floor), (part.least, part.last)
        if self.hopeless.get(state, (_FAR, 0)) <= since:
            return False
        for k in candidates:
            at, i = int(floor[k]), int(rank[k])
            self.offsets[i] = at
            rest = np.arange(len(rank)) != k
            raised = np.where(self.meets[i, rank], np.maximum(floor, at + self.size[i]), floor)[rest]
            for child in self._split(rank[rest], raised, at, i) if len(rank) > 1 else ():
                if not (yield child):
                    break
            else:
                return True
        self.hopeless[state] = since
        return False

    def _next(self, part: _Part) -> np.ndarray:
        """Which rectangles may come next, the lowest first; none where a bound says that it is hopeless."""
        rank, floor = part.rank, part.floor
        none = np.empty(0, np.int64)
        size = self.size[rank]
        # A rectangle that was passed over must rest on one that is still to come.
        open_ = (floor > part.least) | ((floor == part.least) & (rank > part.last))
        if not open_.any():
            return none
        top = floor + size
        earliest = np.where(open_, floor, max(part.least, int(top[open_].min())))
        if (earliest > self.latest[rank]).any():
            return none
        a, b = self.lower[rank].min(), self.upper[rank].max()
        live = self.live[rank, a:b]
        left = size @ live
        lowest = np.where(live, earliest[:, None], _FAR).min(axis=0)
        over = (lowest + left > self.capacity) & (left > 0)
        if over.any():
            self.failures[a:b] += over / over.sum()
            return none
        # Above `top` of another, that one could have come first; above the other bound, a section overflows.
        below = min(int(top.min()), self.capacity - int(left.max()) + 1)
        found = np.flatnonzero(open_ & (floor < below))
        return found[np.argsort(floor[found], kind="stable")]
