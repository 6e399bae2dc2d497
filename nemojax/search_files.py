"""What a search keeps on disk: a checkpoint to go on from, and a cache for other searches of the task."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from egrljax import save_state, state_if_there
from hwmodel import Hosts

from .evaluator import Evaluator
from .history import History
from .nemo import NemoState
from .task import Task

Place = str | os.PathLike[str] | None


class Marks(NamedTuple):
    """What else a search must remember to go on as if it had not stopped."""

    known: int  # first rows of the cache, as of the start, that count as no evaluation
    stale: int  # generations without a new configuration
    warm: int  # configurations that a sensitivity table may choose before the first generation


class Files:
    """Both files of one search; either may be absent. Of several processes the first has them."""

    def __init__(
        self,
        checkpoint: Place,
        cache: Place,
        identity: Mapping[str, Any],
        task: Task,
        free: bool = True,
        hosts: Hosts | None = None,
    ):
        self._hosts, self._writes = hosts, hosts is None or hosts.first
        self._checkpoint = checkpoint
        self._cache = None if cache is None else Path(cache)
        self._identity, self._known = identity, {"task": identity["task"]}
        self._stock, self._free = Evaluator(task).everything(), free

    def restore(self, evaluator: Evaluator, history: History) -> Marks | None:
        """Gives back what was evaluated before, from both files; returns the checkpoint's marks, if any.

        Raises:
            ValueError: a file of another task, or a checkpoint of other settings.
        """
        stock = state_if_there(self._cache, self._stock, self._known, hosts=self._hosts)
        self._stock = self._stock if stock is None else stock
        marks = None
        wanted = {"marks": np.zeros(3, np.int32), "cache": evaluator.table(), "history": history.table()}
        saved = self._saved(wanted)
        if saved is not None:
            marks = Marks(*np.asarray(saved["marks"]).tolist())
            evaluator.restore(saved["cache"])
            history.restore(saved["history"])
        evaluator.know(self._stock, free=self._known_rows() if marks is None else marks.known)
        return marks

    def start(self, warm: int) -> Marks:
        """The marks of a search that begins."""
        return Marks(self._known_rows(), 0, warm)

    def state(self, like: NemoState) -> NemoState:
        """The checkpoint's state, or `like` where there is none."""
        saved = self._saved({"state": like})
        return like if saved is None else saved["state"]

    def _saved(self, like: dict[str, Any]) -> dict[str, Any] | None:
        """Entries of the checkpoint, if there is one."""
        return state_if_there(self._checkpoint, like, self._identity, part=True, hosts=self._hosts)

    def save(self, state: NemoState, evaluator: Evaluator, history: History, marks: Marks) -> None:
        """Writes the checkpoint."""
        if self._checkpoint is not None and self._writes:
            parts = {"state": state, "cache": evaluator.table(), "history": history.table()}
            save_state(self._checkpoint, {**parts, "marks": np.array(marks, np.int32)}, self._identity)

    def _known_rows(self) -> int:
        return len(self._stock["bits"]) if self._free else 0

    def save_cache(self, evaluator: Evaluator) -> None:
        if self._cache is not None and self._writes:
            save_state(self._cache, evaluator.everything(), self._known)
