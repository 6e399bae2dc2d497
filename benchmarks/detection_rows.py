"""What detection_table evaluates: choices on novel_val, then every row on the test episodes, once.

All choices are made anew for every seed, for each number of shots, on mosaics of novel_val.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import fewshotjax as few
from fewshotjax import detection as de

from . import detection_train
from .common import QUICK
from .detection_cells import (
    ABLATION_EPISODES,
    ABLATIONS,
    CELLS,
    CHOICE_EPISODES,
    CHOICE_KEY,
    CROP,
    EPISODE_KEY,
    MAIN,
    MOSAIC2,
    REPMET,
    SCORING,
    SEEN,
    SHOTS,
    UNSEEN,
    VALIDATION,
    Cell,
    Kind,
    Objective,
    Split,
    photographs,
)
from .detection_figures import measured
from .detection_methods import EXTERNALS, ROWS, Row, variants
from .detection_scenes import SceneFiles, episodes_of, scenes
from .repmet_runs import Runs

EXTERNAL_REGIONS = 4 if QUICK else 16  # of a scene, the likeliest objects: crops take long


def settings() -> dict[str, Any]:
    return {"external": EXTERNAL_REGIONS}


class Seat:
    """A trained detector of a seed, with its view of the photographs of a part, one part at a time."""

    def __init__(self, runs: Runs, trained: Runs, objective: Objective, seed: int):
        self.runs, self.trained, self.objective, self.seed = runs, trained, objective, seed
        self._pool: tuple[str, de.DetectionPool] | None = None

    @functools.cached_property
    def detector(self) -> de.Detector:
        found = detection_train.detector(self.trained, self.objective, self.seed)
        assert found is not None, "asked before"
        return found

    def external(self, kind: str) -> few.Backbone | None:
        return detection_train.external(self.trained, self.seed, kind)

    def lacks(self, row: Row) -> bool:
        """Whether it was too late to train the embedding of crops that the row has."""
        return row in EXTERNALS and self.external(EXTERNALS[row]) is None

    def pool(self, part: str) -> de.DetectionPool:
        if self._pool is None or self._pool[0] != part:
            self._pool = None  # before the next one is made: each takes 0.5 GB
            found = de.detection_pool(self.detector, photographs(part))
            # Filled up with the last photograph, which changes no episode: one program serves all parts.
            rows = np.minimum(np.arange(_most()), len(found) - 1)
            self._pool = part, found.take(rows)
        return self._pool[1]

    def files(self, split: Split, kind: Kind, episodes: int, key: int) -> SceneFiles:
        folder = self.runs.file("scenes", self.objective.name, self.seed, split.name, kind.name)
        return scenes(folder, self.pool(split.part), split, kind, episodes, key)

    def crops(self, embedding: str, split: Split, kind: Kind, episodes: int, key: int) -> SceneFiles:
        """The likeliest regions with the features of an embedding of crops."""
        network = self.external(embedding)
        assert network is not None, "asked before"
        seen = self.files(split, kind, episodes, key)  # the detector has looked at these scenes already

        def find(images: np.ndarray, frames: np.ndarray, places: np.ndarray) -> de.Regions:
            cut = seen.likeliest(places, EXTERNAL_REGIONS)
            made = of_crops(network, images, cut.boxes)
            return with_none(
                cut._replace(features=np.where(cut.mask[..., None], made, np.float32(0))), frames
            )

        folder = self.runs.file("crops", embedding, self.objective.name, self.seed, split.name, kind.name)
        return scenes(folder, self.pool(split.part), split, kind, episodes, key, find)

    def crops_pool(self, embedding: str, part: str) -> de.DetectionPool:
        """The true boxes' crops; of the regions none is looked at."""
        pool = self.pool(part)
        cut = de.Regions(*(leaf[:, :1] for leaf in pool.regions))
        small = de.DetectionPool(pool.detector, pool.photographs, cut, pool.features)
        network = self.external(embedding)
        assert network is not None, "asked before"
        return de.external_pool(small, network, CROP, chunk=64)


def of_crops(network: few.Backbone, images: np.ndarray, boxes: np.ndarray, size: int = 16) -> np.ndarray:
    parts = []
    for start in range(0, len(images), size):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        cut = np.clip(np.round(np.asarray(_cut(images[rows], boxes[rows]))), 0, 255).astype(np.uint8)
        found = few.features(network, cut.reshape(-1, CROP, CROP, 3), batch=128)
        parts.append(found.reshape(*boxes[rows].shape[:2], -1)[: len(images) - start])
    return np.concatenate(parts)


@jax.jit
def _cut(images: Any, boxes: Any) -> Any:
    def one(image: Any, some: Any) -> Any:
        return de.roi_align(image.astype(np.float32), some, CROP)

    return jax.vmap(one)(images, boxes)


def with_none(found: de.Regions, frames: np.ndarray) -> de.Regions:
    """With places for rectangles and middles that do not exist, as the files expect them."""

    def padded(leaf: np.ndarray) -> np.ndarray:
        return np.pad(leaf, [(0, 0), (0, 2 * frames.shape[1]), *[(0, 0)] * (leaf.ndim - 2)])

    return de.Regions(*(padded(np.asarray(leaf)) for leaf in found))


@functools.cache
def _most() -> int:
    """Photographs of the largest part."""
    return max(len(photographs(split.part)) for split in (UNSEEN, SEEN, VALIDATION))


def rows_of(objective: Objective, split: Split) -> list[Row]:
    own = [row for row in ROWS if row.objective == objective.name]
    return [row for row in own if split == SEEN or not row.seen_only]


def choice_name(row: Row, shots: int, seed: int) -> str:
    return f"choice, {row.name}, {shots}-shot, seed {seed}"


def name_of(cell: Cell, shots: int, seed: int, row: str) -> str:
    return f"{cell.name}, {shots}-shot, seed {seed}, {row}"


def told_of(runs: Runs, row: Row, shots: int, seed: int) -> str | None:
    """What validation chose for a row."""
    found = runs.known(choice_name(row, shots, seed))
    return None if found is None else found["option"]


def options_of(runs: Runs, row: Row, net: de.Net, shots: int, seed: int) -> dict[str, de.DetectionMethod]:
    before = next((one for one in ROWS if one.name == row.after), None)
    return row.options(net, None if before is None else told_of(runs, before, shots, seed), shots)


class Look(NamedTuple):
    """What a row is run on."""

    pool: de.DetectionPool
    asked: de.QuerySource
    drawn: de.DetectionEpisodes


def evaluated(method: de.DetectionMethod, look: Look) -> de.DetectionResult:
    key = jax.random.key(EPISODE_KEY)
    return de.evaluate_detection(key, method, look.pool, drawn=look.drawn, asked=look.asked, scoring=SCORING)


class Views:
    """Of a detector on a split and kind: filled when the first row asks, removed behind the last."""

    def __init__(self, seat: Seat, split: Split, kind: Kind, episodes: int, key: int):
        self._seat, self._split, self._kind, self._key = seat, split, kind, key
        self._episodes = episodes
        self._made: list[SceneFiles] = []
        self._of_crops: dict[str, tuple[de.DetectionPool, SceneFiles]] = {}

    @functools.cached_property
    def _files(self) -> SceneFiles:
        return self._filled(self._seat.files(self._split, self._kind, self._episodes, self._key))

    def _crops(self, embedding: str) -> tuple[de.DetectionPool, SceneFiles]:
        if embedding not in self._of_crops:
            assert self._files is not None  # looked at before
            files = self._seat.crops(embedding, self._split, self._kind, self._episodes, self._key)
            self._of_crops[embedding] = (
                self._seat.crops_pool(embedding, self._split.part),
                self._filled(files),
            )
        return self._of_crops[embedding]

    def look(self, row: Row, shots: int) -> Look:
        """What a row sees."""
        drawn = episodes_of(self._split, shots, self._episodes, self._key)
        if row in EXTERNALS:
            pool, files = self._crops(EXTERNALS[row])
            return Look(pool, files.asked(), drawn)
        return Look(self._seat.pool(self._split.part), self._files.asked(row.view), drawn)

    def _filled(self, files: SceneFiles) -> SceneFiles:
        files.fill()
        self._made.append(files)
        return files

    def remove(self) -> None:
        for files in self._made:
            files.remove()


def choose(seat: Seat) -> None:
    """The option of each row of the detector, by pooled AP on mosaics of novel_val."""
    runs, seed = seat.runs, seat.seed
    views = Views(seat, VALIDATION, MOSAIC2, CHOICE_EPISODES, CHOICE_KEY)
    for row in rows_of(seat.objective, UNSEEN):
        for shots in SHOTS:
            name = choice_name(row, shots, seed)
            if runs.known(name) is not None or seat.lacks(row):
                continue
            made = options_of(runs, row, seat.detector.net, shots, seed)

            def work(row: Row = row, shots: int = shots, made: Any = made) -> dict[str, Any]:
                if len(made) == 1:
                    return {"option": next(iter(made))}
                look = views.look(row, shots)
                scores = {
                    told: evaluated(method, look).figure("repmet_pooled_ap", resamples=0).value
                    for told, method in made.items()
                }
                return {"option": max(scores, key=scores.__getitem__), "scores": scores}

            if runs.run(name, work) is None:
                return
    views.remove()


def evaluate(seat: Seat, cell: Cell) -> None:
    """Every row of the detector, each kept on its own."""
    views = Views(seat, cell.split, cell.kind, cell.episodes, EPISODE_KEY)
    for shots in cell.shots:
        for row in rows_of(seat.objective, cell.split):
            if row in EXTERNALS and (not cell.external or seat.lacks(row)):
                continue
            _test(seat, cell, row, shots, views)
        if cell.variants and shots == SHOTS[1] and seat.seed == 0 and seat.objective.name == REPMET:
            _variants(seat, cell, shots, views)
    if not seat.runs.late():
        views.remove()


def _test(seat: Seat, cell: Cell, row: Row, shots: int, views: Views) -> None:
    runs, seed = seat.runs, seat.seed
    name = name_of(cell, shots, seed, row.name)
    if runs.known(name) is not None:
        return
    made = options_of(runs, row, seat.detector.net, shots, seed)
    told = next(iter(made)) if row.seen_only else told_of(runs, row, shots, seed)
    if told is None:
        runs.missing.append(name)
        return

    def work() -> dict[str, Any]:
        return {"option": told, **measured(evaluated(made[told], views.look(row, shots)))}

    runs.run(name, work)


def _variants(seat: Seat, cell: Cell, shots: int, views: Views) -> None:
    told = told_of(seat.runs, ROWS[0], shots, seat.seed)
    if told is None:
        return
    for words, method in variants(seat.detector.net, told).items():

        def work(method: de.DetectionMethod = method) -> dict[str, Any]:
            look = views.look(ROWS[0], shots)
            return measured(evaluated(method, look._replace(drawn=look.drawn.take(slice(ABLATION_EPISODES)))))

        seat.runs.run(f"ablation, {cell.name}, {shots}-shot, {words}", work)


def trained_ablation(seat: Seat, cell: Cell) -> None:
    """A detector that was trained otherwise, with the option that validation chose for RepMet's."""
    views = Views(seat, cell.split, cell.kind, ABLATION_EPISODES, EPISODE_KEY)
    shots = SHOTS[1]
    told = told_of(seat.runs, ROWS[0], shots, seat.seed)
    if told is None:
        seat.runs.missing.append(f"ablation, {seat.objective.name}: RepMet has chosen nothing yet")
        return
    method = ROWS[0].options(seat.detector.net, None, shots)[told]
    seat.runs.run(
        f"ablation, {cell.name}, {shots}-shot, {seat.objective.name}",
        lambda: measured(evaluated(method, views.look(ROWS[0], shots))),
    )
    if not seat.runs.late():
        views.remove()


def work_of(runs: Runs, trained: Runs, part: int, parts: int, seeds: int) -> list[str]:
    """The part's share of the evaluation; gives what waits for a training."""
    waits = []
    for seed in range(seeds):
        for objective in MAIN:
            if detection_train.owner(objective.name, seed, seeds, parts) != part % parts:
                continue
            seat = Seat(runs, trained, objective, seed)
            if detection_train.detector(trained, objective, seed) is None:
                waits.append(f"{objective.name}, seed {seed}")
                continue
            choose(seat)
            for cell in CELLS:
                if cell.seeds is None or seed < cell.seeds:
                    evaluate(seat, cell)
            detection_train.tidy()
    return waits


def ablations(runs: Runs, trained: Runs, part: int, parts: int) -> None:
    """The detectors that were trained otherwise, of seed 0: last, as they matter least."""
    cell = next(one for one in CELLS if one.variants)
    runs.reload()  # choices of another part
    for i, objective in enumerate(ABLATIONS):
        if i % parts != part % parts:
            continue
        run = detection_train.train(trained, objective, 0)
        if run is not None and "diverged" not in run:
            trained_ablation(Seat(runs, trained, objective, 0), cell)
            detection_train.tidy()
