"""RepMet's detector beside every baseline, on Tiny-ImageNet photographs with their boxes and mosaics of them.

A low-resolution relative of the benchmark that RepMet's authors use, and not that set: nothing here is
comparable with published numbers. Photographs have one box each; other objects in them count as false, so
precision has a ceiling. Boxes with a side below 8 pixels are left out. At IoU .5 a photograph's rectangle
passes for the box of about half of them, so AP there tests classification first: the floors, AP75, COCO AP
and class-agnostic recall stand beside every row.

Per seed (TABLE_SEEDS, 3), everything on base classes: a ResNet-18 pyramid is trained as a softmax classifier
of photographs (3 epochs), and on it, which stays as it is from then on, for 2,700 steps of 4 mosaics of 2 x
2, the detectors
  repmet  five representatives a class, embedding loss,
  ce      one representative and no embedding loss: the embedding is trained by cross-entropy alone,
both with the same linear loss, 48 channels and 64 proposals an image. A training whose linear loss ends at
chance counts as diverged. Ablations of training (one seed): K = 1, OHEM off, no embedding loss, its margin
halved and doubled, learned sigma, deformable pooling.

Episodes: 5-way, 10 queries a class, 500; the queries are the same for 1, 5 and 10 shots. Support is always
single photographs. In the main table ("mosaic2") a query is one of four photographs of a scene; the others
are distractors of classes that no episode has and show no object to be found. A photograph has the same
scene in each episode that asks for it, so that a detector looks at each once. 5-shot, on the first episodes,
queries are shown in other ways, too: among other queries of the episode, half of the tiles ("several
objects", scenes of each episode's own, 50 episodes); alone, cropped and shrunk at random ("single"), and as
they are, 100 episodes; of one training. Unseen: novel_test, distractors of base_test. Seen: support and
queries of base_test, distractors of novel_val; classes with fewer than 20 photographs are left out and named.
All methods meet the same episodes and scenes, and find at most 25 boxes in a scene.

Rows, on seen and unseen classes alike
repmet    RepMet; tuned in the episode (embedding and representatives); trained representatives (seen)
on ce     metric baseline: class means; the same tuned; fine-tuned detector: a new softmax layer, a hidden
          layer before it and the box head, on the trunk's features, 30 steps; class-agnostic proposals
          (objectness) with nearest prototypes; floors: the photographs' rectangles, which no detector is
          told, or their middles, as the only boxes, with class means
external  the same network as a softmax classifier of crops of the base classes' boxes, 32 pixels, and what
          three more epochs of RepMet's loss on its features make of that (DML), on the 16 likeliest regions
          of ce; class means of true boxes' crops

Chosen on validation classes (novel_val), before any test: the learning rate of each objective (pilots of 250
steps, the same candidates, single photographs), the best of three epochs of each training, and for each row,
seed and number of shots its options (mosaics, 30 episodes, pooled AP): sigma, modes, rate and length of
tuning, rates of the softmax layer and of what lies before it. A row of RepMet has up to six options, others
up to four.

Metrics: "repmet_pooled_ap" is the RepMet authors' own and compares with no other; VOC (all-point, 11-point)
and COCO are per class; the AUROC is that of the background's posterior, regions of no class of the episode
against the others. Intervals are 95 %: Student's t over trainings, which share the episodes;
"episodes_half" is half of the normal interval over the episodes of a training (1.96 standard deviations of
60 bootstrap resamples). Differences are paired.

Runs are kept, trainings apart from rows, so an interrupted table goes on; TABLE_LIMIT_S ends it early, within
a training, too; what is missing is said. TABLE_PART=1/2 and 2/2 share the work, a process each: run both,
then once without, which does what is left and puts the table together. Needs FRUGALJAX_DATA. About 2.7
core-hours on a shared Intel Xeon: trainings 1.0, the rest scenes and rows. With QUICK=1 a few classes
and steps take the place of all: that shows that it works, and no more.
"""

import os
import time
from typing import Any

if os.environ.get("QUICK", "") not in ("", "0"):  # read when JAX begins; compiling is most of a quick run
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )

import jax

from . import (
    detection_cells as cells,
    detection_figures,
    detection_methods,
    detection_rows,
    detection_speed,
    detection_summary as summary,
    detection_train,
)
from .common import QUICK, finish, peak_gib, say
from .detection_cells import CELLS, EPISODE_KEY, MAIN, SEEDS
from .repmet_runs import Runs

NAME = "Tiny-ImageNet photographs and mosaics, a low-resolution relative of the ImageNet-LOC benchmark"
LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))


def settings() -> dict[str, Any]:
    """Everything that a kept row depends on, as JSON values."""
    return {
        **cells.settings(),
        "methods": detection_methods.settings(),
        "rows": detection_rows.settings(),
        "figures": detection_figures.settings(),
    }


def main() -> None:
    if not os.environ.get("FRUGALJAX_DATA"):
        raise SystemExit("set FRUGALJAX_DATA to the folder with tiny_imagenet")
    start = time.monotonic()

    def late() -> bool:
        return time.monotonic() - start > LIMIT_S

    trained = Runs("detection_training", cells.training_settings(), late)
    runs = Runs("detection_table", settings(), late)
    if not QUICK:  # the same programs for every seed
        jax.config.update("jax_compilation_cache_dir", str(trained.folder / "programs"))
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    detection_train.all_of(trained, part, parts, SEEDS)
    waits = detection_rows.work_of(runs, trained, part, parts, SEEDS)
    if not QUICK:
        detection_rows.ablations(runs, trained, part, parts)
    if parts > 1:
        missing = len(trained.missing) + len(runs.missing)
        say(f"part {part}/{parts}: {missing} runs are missing, {len(waits)} detectors wait for training")
        return
    finish("detection_table", composed(runs, trained, waits))


def composed(runs: Runs, trained: Runs, waits: list[str]) -> dict[str, Any]:
    """The table of what is kept."""
    first = detection_train.detector(trained, MAIN[0], 0)
    if first is not None:
        runs.run("speed", lambda: detection_speed.images_per_second(first))
    table = {
        cell.name: {
            f"{shots}-shot": found
            for shots in cell.shots
            if (found := summary.cell_of(runs, cell, shots, SEEDS)) is not None
        }
        for cell in CELLS
    }
    summary.tell(table)
    missing = [*trained.missing, *runs.missing, *waits]
    found = {
        "settings": {**settings(), "seeds": SEEDS},
        "name": NAME,
        "aims": summary.aims(table),
        "table": table,
        "ablations": summary.ablations(runs),
        "excluded_classes": {cell.name: list(_excluded(cell)) for cell in CELLS},
        "choices": {name: run for name, run in runs.kept.done.items() if name.startswith("choice, ")},
        "trainings": trained.kept.done,
        "speed_64_pixels": runs.known("speed"),
        "missing": missing,
        "complete": not missing,
        "seconds": round(sum(run["seconds"] for one in (runs, trained) for run in one.kept.done.values())),
        "peak_gib": round(peak_gib(), 2),
    }
    return found if QUICK else {**found, "runs": runs.kept.done}


def _excluded(cell: cells.Cell) -> tuple[str, ...]:
    return detection_rows.episodes_of(cell.split, 1, cell.episodes, EPISODE_KEY).excluded


if __name__ == "__main__":
    main()
