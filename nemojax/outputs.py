"""What a search leaves in its folder: tables, files for other tools, pictures; and the baselines in them."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from .configuration import Configuration, save_bits
from .evaluator import Evaluator, scores
from .front import Front
from .plots import plot_bits, plot_front, plot_progress
from .search import Found, uniform_bits
from .setup_run import Prepared

KL_LIMIT = 1.0  # nats; beyond it a network is of no use, and would pull the knee to itself


class Outcome(NamedTuple):
    """A finished search with its figures on the images of the report."""

    front: Front  # as searched, with the report's figures beside it
    report: Front  # re-evaluated on the report's images, what is dominated there left out
    knee: Configuration  # chosen by the search's own figures
    baselines: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> bits and costs on the report's images


def evaluate_outcome(found: Found, prepared: Prepared, *, random: int = 40, seed: int = 0) -> Outcome:
    """Evaluates the front and the baselines (uniform and random bit-widths) on the report's images."""
    front, report = found.front, prepared.report
    columns = scores(report, front.bits, prepared.report_scores)
    front = Front(
        front.bits,
        front.costs,
        front.objectives,
        front.names,
        {**front.settings, **prepared.facts},
        {f"report_{name}": column for name, column in columns.items()},
    )
    on_report = Evaluator(report)
    searched = {f"search_{front.objectives[0]}": front.costs[:, 0]}
    again = Front.of(
        front.bits, on_report(front.bits), report.objectives, front.names, front.settings, searched
    )
    drawn = np.asarray(report.space.sample(jax.random.key(seed), random))
    rivals = {"uniform": uniform_bits(report), "random": drawn}
    baselines = {name: (bits, on_report(bits)) for name, bits in rivals.items()}
    return Outcome(front, again, knee(front), baselines)


def knee(front: Front) -> Configuration:
    """The front's knee; with kl among the points of at most `KL_LIMIT`, if there are any."""
    if "kl" in front.objectives and front.costs[:, front.objectives.index("kl")].min() <= KL_LIMIT:
        return front.knee(kl=KL_LIMIT)
    return front.knee()


def write_outcome(folder: Path, outcome: Outcome, found: Found) -> list[Path]:
    """Writes everything into `folder`; returns the files."""
    files = {name: folder / name for name in ("front.csv", "front.json", "knee.json")}
    outcome.front.to_csv(files["front.csv"])
    outcome.front.to_json(files["front.json"])
    save_bits(files["knee.json"], outcome.knee)
    pictures = {
        "front.png": plot_front(outcome.report, outcome.baselines, outcome.knee),
        "knee.png": plot_bits(outcome.knee),
        "progress.png": plot_progress(found.history),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name)
    return [*files.values(), *(folder / name for name in pictures)]
