"""What a search leaves in its folder: tables, files for other tools, pictures; and the baselines in them."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .configuration import Configuration, save_bits
from .evaluator import Evaluator, scores
from .first_generation import initial_bits, uniform_bits
from .front import Front
from .plots import plot_bits, plot_front, plot_progress
from .reevaluate import refiltered
from .search import Found
from .setup_run import Prepared
from .task import costs_by_name

KL_LIMIT = 1.0  # nats; beyond it a network is of no use, and would pull the knee to itself


class Outcome(NamedTuple):
    """A finished search with its figures on the images of the report."""

    front: Front  # as searched, with the report's figures beside it
    report: Front  # re-evaluated on the report's images, what is dominated there left out
    knee: Configuration  # chosen by the search's own figures
    baselines: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> bits and costs on the report's images


def evaluate_outcome(found: Found, prepared: Prepared, *, drawn: int = 20) -> Outcome:
    """Evaluates the front and the baselines on the report's images."""
    front, report = found.front, prepared.report
    columns = scores(report, front.bits, prepared.report_scores)
    usable = np.isfinite(list(columns.values())).all(axis=0)  # a network may fail on one set of images alone
    if not usable.any():
        raise ValueError(
            "every point of the front fails on the images of the report: is something wrong with them?"
        )
    bits, costs = front.bits[usable], front.costs[usable]
    columns = {f"report_{name}": column[usable] for name, column in columns.items()}
    product = costs_by_name(prepared.task.network)["bitops_product"]
    further = {"bitops_product": np.asarray(jax.vmap(product)(jnp.asarray(bits)))}
    settings = {**front.settings, **prepared.facts}
    front = Front(bits, costs, front.objectives, front.names, settings, {**columns, **further})
    # All but the first depend on the bits alone.
    on_report = np.column_stack([columns[f"report_{front.objectives[0]}"], costs[:, 1:]])
    again = refiltered(front, on_report, front.objectives)
    k_random, k_perturbed = jax.random.split(prepared.key)
    rivals = {
        "uniform": uniform_bits(report),
        "perturbed uniform": initial_bits(k_perturbed, report.space, drawn + 7)[-drawn:],
        "random": np.asarray(report.space.sample(k_random, drawn)),
    }
    evaluate = Evaluator(report)
    baselines = {name: (rows, evaluate(rows)) for name, rows in rivals.items()}
    return Outcome(front, again, knee(front), baselines)


def knee(front: Front) -> Configuration:
    """The front's knee; with kl among the points of at most `KL_LIMIT`, if there are any."""
    if "kl" in front.objectives and front.costs[:, front.objectives.index("kl")].min() <= KL_LIMIT:
        return front.knee(kl=KL_LIMIT)
    return front.knee()


def write_outcome(folder: Path, outcome: Outcome, found: Found) -> list[Path]:
    """Writes everything into `folder`; returns the files."""
    files = [folder / name for name in ("front.csv", "front.json", "report.csv", "report.json", "knee.json")]
    for front, table, whole in zip((outcome.front, outcome.report), files[0:4:2], files[1:4:2], strict=True):
        front.to_csv(table)
        front.to_json(whole)
    save_bits(files[4], outcome.knee)
    pictures = {
        "front.png": plot_front(outcome.report, outcome.baselines, _on_report(outcome.knee)),
        "knee.png": plot_bits(outcome.knee),
        "progress.png": plot_progress(found.history),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name)
    return [*files, *(folder / name for name in pictures)]


def _on_report(point: Configuration) -> Configuration:
    """The same bits with the error measured on the report's images."""
    error = point.objectives[0]
    return replace(point, costs={**point.costs, error: point.held_out[f"report_{error}"]})
