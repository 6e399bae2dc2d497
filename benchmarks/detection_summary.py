"""Means over trainings of detection_table's kept rows, and RepMet minus each of the others."""

from collections.abc import Mapping
from typing import Any

from fewshotjax.detection.results import METRICS

from .common import say
from .detection_cells import CELLS, Cell
from .detection_figures import PAIRED, gap, paired
from .detection_methods import REPMET_ROWS, ROWS
from .detection_rows import name_of
from .repmet_runs import Runs, excludes, over_seeds

SHOWN = {  # with how it is headed
    "repmet_pooled_ap": "pooled AP",
    "voc_ap": "VOC AP",
    "voc_ap_11": "VOC AP 11",
    "coco_ap": "COCO AP",
    "coco_ap75": "AP75",
    "recall": "recall",
    "background_auroc": "AUROC",
    "floor_whole": "floor whole",
    "floor_centred": "floor centred",
    "floor_whole75": "floor whole75",
    "floor_centred75": "floor centred75",
}


def rows(runs: Runs, cell: Cell, shots: int, seeds: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Of each row its run by seed."""
    names = [row.name for row in ROWS]
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in names:
        for seed in range(seeds):
            run = runs.known(name_of(cell, shots, seed, name))
            if run is not None:
                found.setdefault(name, {})[seed] = run
    return found


def cell_of(runs: Runs, cell: Cell, shots: int, seeds: int) -> dict[str, Any] | None:
    found = rows(runs, cell, shots, seeds)
    if not found:
        return None
    return {name: _row(found, name) for name in found}


def _row(found: Mapping[str, Mapping[int, Any]], name: str) -> dict[str, Any]:
    own = found[name]
    row: dict[str, Any] = {
        "seeds": len(own),
        "options": sorted({run["option"] for run in own.values() if "option" in run}),
        "figures": {
            metric: over_seeds(
                [[run["values"][metric], run["episodes_half"][metric]] for run in own.values()]
            )
            for metric in METRICS
            if all(metric in run["values"] for run in own.values())
        },
        "classes_without_support": sum(run["classes_without_support"] for run in own.values()),
        "failed_queries": sum(run["failed_queries"] for run in own.values()),
        "objects": next(iter(own.values()))["objects"],
    }
    for repmet in REPMET_ROWS:
        other = found.get(repmet, {})
        both = [seed for seed in own if seed in other]
        if both and name != repmet:
            row[f"{repmet} minus this"] = {
                metric: over_seeds([gap(other[seed], own[seed], metric) for seed in both])
                for metric in PAIRED
                if all(metric in paired(other[seed], own[seed]) for seed in both)
            }
    return row


def ablations(runs: Runs) -> dict[str, Any]:
    """Seed 0: each variant, and RepMet as validation chose it minus the variant."""
    found: dict[str, dict[str, Any]] = {}
    for name, run in runs.kept.done.items():
        if name.startswith("ablation, "):
            start, _, variant = name.removeprefix("ablation, ").partition("-shot, ")
            found.setdefault(f"{start}-shot", {})[variant] = run
    told: dict[str, Any] = {}
    for where, variants in found.items():
        base = variants.get("as chosen")
        told[where] = {
            name: {
                "values": run["values"],
                "episodes_half": run["episodes_half"],
                **(
                    {"as chosen minus this": {metric: gap(base, run, metric) for metric in paired(base, run)}}
                    if base is not None and name != "as chosen"
                    else {}
                ),
            }
            for name, run in variants.items()
        }
    return told


def aims(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Whether RepMet is first in each unseen cell, and whether both intervals of a difference say so."""
    made = {}
    for cell in CELLS:
        for where, found in table.get(cell.name, {}).items():
            if cell.split.name == "unseen":
                made[f"{cell.name}, {where}"] = _aim(found)
    return made


def _aim(found: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for metric in PAIRED:
        if not all(metric in row["figures"] for row in found.values()):
            continue
        told[metric] = {
            "first": max(found, key=lambda name: found[name]["figures"][metric]["mean"]),
            **{
                repmet: {
                    other: {"above": row["mean"] > 0, "certain": excludes(row, 0.0)}
                    for other, row in (
                        (name, one[f"{repmet} minus this"][metric])
                        for name, one in found.items()
                        if metric in one.get(f"{repmet} minus this", ())
                    )
                }
                for repmet in REPMET_ROWS
            },
        }
    return told


def tell(table: Mapping[str, Mapping[str, Any]]) -> None:
    """The figures, %, for who watches."""
    for cell, by_shots in table.items():
        for shots, found in by_shots.items():
            say(f"{cell}, {shots}: Tiny-ImageNet photographs, {', '.join(SHOWN.values())}")
            for name, row in sorted(
                found.items(), key=lambda item: -item[1]["figures"]["repmet_pooled_ap"]["mean"]
            ):
                figures = row["figures"]
                known = (figures.get(metric) for metric in SHOWN)
                told = ["    -" if one is None else f"{100 * one['mean']:5.1f}" for one in known]
                say(f"  {name:38} {' '.join(told)}")
