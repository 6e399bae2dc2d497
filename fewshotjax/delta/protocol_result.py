"""What the two protocols report, with the gain of each selection on test queries."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..results import Mean, mean_of

SCHEMA = "frugaljax.fewshot.delta_protocols/1"
LABEL = "selected on test; not comparable"


class ProtocolRow(NamedTuple):
    """A line of the table."""

    name: str
    accuracy: Mean  # over episodes
    gain: Mean | None  # paired difference from the honest line on the same episodes; None: that line
    comparable: bool


@dataclass(frozen=True, eq=False)
class ProtocolResult:
    """Accuracies of every Delta-encoder in every episode, after every epoch of the classifier."""

    accuracies: np.ndarray  # (candidates, E, T) float32
    candidates: tuple[str, ...]
    chosen: int  # on validation
    max_classifier_epoch: bool
    max_model_epoch: bool
    authors_episodes: int | None  # of the authors' lines, the first so many; None: all
    settings: dict[str, Any]

    @property
    def honest(self) -> Mean:
        """The chosen candidate's last classifier epoch."""
        return mean_of(self.honest_accuracies)

    @property
    def honest_accuracies(self) -> np.ndarray:
        """(E,), to be compared with other methods on the same episodes."""
        return self.accuracies[self.chosen, :, -1]

    def best_model(self, max_classifier_epoch: bool = False) -> str:
        """The candidate that is best on the test episodes, the first of equals."""
        return self.candidates[self._best_model(max_classifier_epoch)]

    def rows(self) -> list[ProtocolRow]:
        """Honest first; then the maxima that were asked for, each alone and both."""
        found = [ProtocolRow("honest", self.honest, None, True)]
        part = self._part()
        before = part[self.chosen, :, -1]
        if len(before) < self.accuracies.shape[1]:
            found.append(
                ProtocolRow(f"honest, the first {len(before)} episodes", mean_of(before), None, True)
            )
        wanted = []
        if self.max_classifier_epoch:
            wanted.append(("+ best classifier epoch", part[self.chosen].max(axis=1)))
        if self.max_model_epoch:
            model = self._best_model(False)
            wanted.append((f"+ best model, {self.candidates[model]}", part[model, :, -1]))
        if self.max_classifier_epoch and self.max_model_epoch:
            model = self._best_model(True)
            wanted.append((f"+ both (authors), {self.candidates[model]}", part[model].max(axis=1)))
        for name, values in wanted:
            found.append(ProtocolRow(name, mean_of(values), mean_of(values - before), False))
        return found

    def table(self) -> str:
        """A line for each protocol."""
        rows = self.rows()
        width = max(len(row.name) for row in rows)
        lines = [f"{'protocol':{width}}  {'accuracy':>17}  gain"]
        for row in rows:
            gain = (
                "" if row.gain is None else f"{100 * row.gain.mean:+.2f} ± {100 * row.gain.half:.2f}  {LABEL}"
            )
            lines.append(f"{row.name:{width}}  {row.accuracy!s:>17}  {gain}".rstrip())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Settings and the table's figures."""
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "candidates": list(self.candidates),
            "chosen": self.candidates[self.chosen],
            "protocols": {
                row.name: {
                    "accuracy": row.accuracy.mean,
                    "accuracy_half": row.accuracy.half,
                    "gain": None if row.gain is None else row.gain.mean,
                    "gain_half": None if row.gain is None else row.gain.half,
                    "note": None if row.comparable else LABEL,
                }
                for row in self.rows()
            },
        }

    def _part(self) -> np.ndarray:
        return self.accuracies[:, : self.authors_episodes]

    def _best_model(self, max_classifier_epoch: bool) -> int:
        part = self._part()
        each = part.max(axis=2) if max_classifier_epoch else part[:, :, -1]
        return int(np.argmax(each.mean(axis=1)))
