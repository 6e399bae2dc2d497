"""What a search leaves in its folder: tables, files for other tools, pictures; and the baselines in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hwmodel as hw

from .chip_costs import latency
from .configuration import Configuration, save_bits
from .evaluator import Evaluator, scores
from .first_generation import initial_bits, uniform_bits
from .front import Front
from .plots import plot_bits, plot_front, plot_progress
from .reevaluate import refiltered
from .report import write_report
from .run_folder import COURSE, command, read_course, write_course
from .search import Found
from .setup_run import Prepared, RunSettings
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
    error, *others = outcome.front.objectives
    write_course(folder / COURSE, found, outcome.baselines, (f"report_{error}", *others))
    return [*files, *(folder / name for name in pictures), folder / COURSE]


def write_run_report(
    path: Path, result: Path, workload: hw.Workload | None = None, chip: hw.Chip | None = None
) -> None:
    """The page of a run's folder, or of a front.json alone, which has no learning curve.

    Args:
        workload, chip: for panels of memory and time, with tensors placed by the density rule.

    Raises:
        ValueError: a file that is damaged or missing, or another network's; in one line.
    """
    front = Front.from_json(result / "front.json" if result.is_dir() else result)
    on_chip = None if workload is None or chip is None else latency(workload, chip, "density")
    text, course = None, None
    if result.is_dir() and (result / COURSE).exists():
        course = read_course(result / COURSE, len(front.names))
    if "run" in front.settings and "budget" in front.settings:
        settings = RunSettings.from_dict(front.settings["run"])
        text = command(settings, front.settings["budget"])
        text += "\n# Files of --seeds-from and --cache are not known here."
        if course is not None and not course.finished:
            text += f"\n# This one was stopped after {course.evaluations} evaluations."
    of_course: dict[str, Any] = (
        {}
        if course is None
        else {
            "history": course.history,
            "species": course.species,
            "baselines": course.baselines,
            "baseline_columns": course.baseline_columns if course.baselines else None,
            "settings": {"evaluations": course.evaluations, "finished": course.finished},
        }
    )
    write_report(path, front, chip=on_chip, knee=knee(front).index, command=text, **of_course)


def _on_report(point: Configuration) -> Configuration:
    """The same bits with the error measured on the report's images."""
    error = point.objectives[0]
    return replace(point, costs={**point.costs, error: point.held_out[f"report_{error}"]})
