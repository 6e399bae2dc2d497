"""The course of a search: what was chosen beforehand, then generations; and what happens between them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import moocore
import numpy as np
from jaxtyping import Float, Int

from hwmodel import Hosts, close_line, wants_stop

from .budgeted import Budgeted
from .evaluator import Evaluator
from .history import History
from .loop import run
from .nemo import Nemo, NemoState
from .search_files import Files, Marks
from .task import Task

STALE = 25  # generations without a new configuration: the search has run dry


class Report(NamedTuple):
    """What `on_chunk` is told after every generation."""

    generation: int
    evaluations: int  # carried out, the unit of the budget
    asked: int  # candidates, those known already included
    budget: int
    hypervolume: float  # of everything evaluated, in [0, 1]: a share of the box up to `reference`
    front: int  # points
    best: Mapping[str, float]  # lowest of each objective
    seconds: float  # since the call


Propose = Callable[[np.ndarray, np.ndarray], np.ndarray]  # bits and costs so far -> more bits


class Evaluated(NamedTuple):
    """K configurations in the order of their evaluation."""

    bits: Int[np.ndarray, "K n"]
    costs: Float[np.ndarray, "K M"]
    over: Float[np.ndarray, " K"]  # how far beyond the limits; 0 = within

    @classmethod
    def none(cls, quantizers: int, objectives: int) -> "Evaluated":
        return cls(
            np.zeros((0, quantizers), np.int32),
            np.zeros((0, objectives), np.float32),
            np.zeros(0, np.float32),
        )

    def and_(self, bits: np.ndarray, costs: np.ndarray, over: np.ndarray) -> "Evaluated":
        return Evaluated(*map(np.concatenate, zip(self, (bits, costs, over), strict=True)))


OnChunk = Callable[[Report], Any]  # True or "stop" ends the search


class Course:
    """One search under way. `marks` and `history` are set before it begins."""

    marks: Marks
    history: History

    def __init__(
        self,
        task: Task,
        evaluator: Evaluator,
        limits: Float[np.ndarray, " M"],
        corner: Float[np.ndarray, " M"],
        files: Files,
        on_chunk: OnChunk | None,
        time_limit_s: float | None,
        hosts: Hosts | None = None,
    ):
        self.task, self.evaluator, self.files, self.on_chunk = task, evaluator, files, on_chunk
        self.hosts = hosts
        self.limits, self.corner, self.time_limit_s = limits, corner, time_limit_s
        self.evaluate = Budgeted(evaluator, limits, corner)
        self.started, self.stopped = time.monotonic(), False

    def evaluate_first(self, state: NemoState, propose: Propose, at_once: int) -> Evaluated:
        """Round after round until nothing more is proposed; less, if the time is over."""
        told = Evaluated.none(*state.archive.bits.shape[1:], *state.archive.costs.shape[1:])
        while not self.stopped and len(rows := propose(told.bits, told.costs)):
            for part in np.array_split(rows, -(-len(rows) // at_once)):
                before = self.evaluator.distinct
                told = told.and_(part, *self.evaluate(part))
                if self.evaluator.distinct == before:  # looked up, by a search that goes on
                    continue
                self._save(state)
                self.stopped = self._over()
                if self.stopped:
                    break
        return told

    def evolve(self, algo: Nemo, state: NemoState, budget: int, population: int) -> NemoState:
        """Generations, until one more would exceed the budget or nothing new is found."""
        while (
            self.evaluator.evaluations + population <= budget
            and self.marks.stale < STALE
            and not self.stopped
        ):
            before = self.evaluator.distinct
            state, metrics = run(algo, self.evaluate, state, generations=1, every=1, jit_evaluate=False)
            stale = self.marks.stale + 1 if self.evaluator.distinct == before else 0
            self.marks = self.marks._replace(stale=stale)
            report = self._report(state, budget)
            self.history.add(report.evaluations, report.hypervolume, metrics)
            self._save(state)
            self.stopped = self._over(self.on_chunk is not None and wants_stop(self.on_chunk(report)))
        return state

    def close(self) -> None:
        """Whatever happened: a progress line gives the terminal back, the cache is kept."""
        close_line(self.on_chunk)
        self.files.save_cache(self.evaluator)

    def _over(self, wanted: bool = False) -> bool:
        """Whether somebody wants the end, or the time is over; processes end together."""
        late = self.time_limit_s is not None and time.monotonic() - self.started >= self.time_limit_s
        return wanted or late if self.hosts is None else self.hosts.any(wanted or late)

    def _save(self, state: NemoState) -> None:
        self.files.save(state, self.evaluator, self.history, self.marks)

    def _report(self, state: NemoState, budget: int) -> Report:
        costs, corner = self.evaluator.table()["costs"].astype(np.float64), self.corner
        costs = costs[np.isfinite(costs).all(axis=1) & (costs <= self.limits).all(axis=1)]
        front = costs[moocore.is_nondominated(costs)] if len(costs) else costs
        volume = float(moocore.hypervolume(front / corner, np.ones(len(corner)))) if len(front) else 0.0
        best = front.min(axis=0) if len(front) else np.full(len(corner), np.inf)
        return Report(
            generation=int(state.generation),
            evaluations=self.evaluator.evaluations,
            asked=int(state.evaluations),
            budget=budget,
            hypervolume=volume,
            front=len(front),
            best=dict(zip(self.task.objectives, best.tolist(), strict=True)),
            seconds=time.monotonic() - self.started,
        )
