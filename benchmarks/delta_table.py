"""The Delta-encoder beside every baseline and control, on the same features and episodes.

Tiny-ImageNet and Omniglot, our splits: the Conv-4 backbones that repmet_table trains on the base classes by
softmax, five seeds (missing ones are trained as there and kept there); 5-way 1-shot and 5-shot, the first
1,000 of repmet_table's test episodes. Not comparable with published numbers: other data, other features.

Choices are made on validation classes, seed 0, 1-shot and 5-shot together, and kept before any test run:
scaling of the features, learning rate and epochs of the Delta-encoder; options of the baselines. Test:
the last epoch of each episode's classifier. "protocols" repeats what the authors' code selects on test
queries, on fewer episodes, with the gain of each selection. Rows with the authors' classifier (25 epochs of
Adam): seeds only, Delta-encoder, linear offset, Gaussian noise, noise codes, random-class deltas. Of seeds
alone 25 epochs are 25 steps, which hardly move the first weights; "equal steps" has those of 1,024 samples.
"trained prototypical" has a backbone of its own. Ablations change one thing of the chosen Delta-encoder, on
Tiny-ImageNet 1-shot. "checks" say whether codes carry anything and samples differ.

Intervals are 95 %: Student's t over seeds, which share the episodes; "episodes_half" is half of that over the
episodes of a seed. Differences are paired. Runs are kept, so an interrupted table goes on; TABLE_LIMIT_S ends
it early; what is missing is said. TABLE_PART=1/2 and 2/2 share the work, a process each: run both, then once
without, which does what is left and puts the table together. Needs FRUGALJAX_DATA. With QUICK=1 a small
Omniglot and one seed take the place of all: that shows that it works, and no more.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np

import fewshotjax as few
from fewshotjax import delta as de
from fewshotjax.episode_task import EpisodeTask, episode_task

from . import delta_runs
from .common import QUICK, finish, say
from .delta_runs import BEDS, SEEDS, Plan, Sources, candidates, plan, trained
from .repmet_cells import CHOICE_KEY, EPISODE_KEY, Bed
from .repmet_runs import Runs, over_seeds

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
EPISODES, CHOICE_EPISODES, ABLATION_EPISODES = (20, 20, 20) if QUICK else (1_000, 200, 400)
PROTOCOL_EPISODES, PROTOCOL_SEEDS, ABLATION_SEEDS = (20, 1, 1) if QUICK else (100, 2, 1)
SAMPLES, CHOICE_SAMPLES = (32, 32) if QUICK else (1_024, 256)
CLASSIFIER = de.ClassifierConfig(epochs=3) if QUICK else de.ClassifierConfig()
CHUNK, SHOTS = 8, ((1,) if QUICK else (1, 5))
TRIED_EPOCHS = (2,) if QUICK else (3, 6, 12)
CURVE = (32,) if QUICK else (1, 4, 16, 64, 256, 512, 1_024, 2_048)
FIT = de.EpisodeFit(SAMPLES, classifier=CLASSIFIER)
STEPS = CLASSIFIER.epochs * math.ceil(5 * (SAMPLES + 1) / CLASSIFIER.batch)  # of the classifier, 1-shot
MAIN, PROTONET, EQUAL = "delta-encoder", "trained prototypical", "seeds only, equal steps"


def settings() -> dict[str, Any]:
    """Everything that a kept run depends on, as JSON values."""
    return {
        "delta": delta_runs.settings(),
        "episodes": [EPISODES, CHOICE_EPISODES, ABLATION_EPISODES, PROTOCOL_EPISODES],
        "samples": [SAMPLES, CHOICE_SAMPLES],
        "classifier": repr(CLASSIFIER),
        "tried_epochs": TRIED_EPOCHS,
        "curve": CURVE,
        "keys": [CHOICE_KEY, EPISODE_KEY],
        "baselines": {name: list(options) for name, options in baselines(np.zeros(1, np.float32)).items()},
    }


def baselines(base_mean: np.ndarray) -> dict[str, dict[str, few.Method]]:
    """Of each the options that validation chooses from."""
    repmet = few.RepMetConfig(modes=1, embedding=None)
    if QUICK:
        return {"prototypes": {"": few.prototypes()}}
    return {
        "nearest neighbour": {"": few.nearest_neighbour()},
        "prototypes": {"": few.prototypes()},
        "simpleshot": {"L2N": few.simpleshot(), "CL2N": few.simpleshot(base_mean)},
        "logistic": {f"lambda {r}": few.logistic(r) for r in (0.01, 0.1, 1.0)},
        "ridge": {f"lambda {r}": few.ridge(r) for r in (0.1, 1.0)},
        "repmet K=1": {"": few.repmet(repmet)},
    }


def task_of(
    part: tuple[np.ndarray, np.ndarray], bed: Bed, shots: int, key: int, episodes: int
) -> EpisodeTask:
    shape = {"ways": 5, "shots": shots, "queries": bed.queries, "episodes": episodes}
    return episode_task(jax.random.key(key), *part, **shape)


def right(task: EpisodeTask, sampler: Any, fit: de.EpisodeFit = FIT) -> np.ndarray:
    """Queries of each episode that were right."""
    found = de.accuracies_by_epoch(task, sampler, fit, chunk=CHUNK)[:, -1]
    return np.rint(found * task.config.ways * task.config.queries).astype(int)


def right_of_method(task: EpisodeTask, method: few.Method, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found = few.evaluate(task.key, method, x, y, drawn=task.episodes)
    return np.rint(found.accuracies * task.config.ways * task.config.queries).astype(int)


def of_equal_steps(samples: int, shots: int = 1) -> de.EpisodeFit:
    """As many steps as the full number of samples has, at a constant rate: 25 epochs of few are few steps."""
    batches = math.ceil(5 * (samples + shots) / CLASSIFIER.batch)
    longer = replace(CLASSIFIER, epochs=math.ceil(STEPS / batches), decay=1.0)
    return replace(FIT, samples=samples, classifier=longer)


def tidy() -> None:
    """Compiled programs go; a quick run has few, of shapes that it meets again."""
    if not QUICK:
        jax.clear_caches()


def packed(counts: np.ndarray) -> str:
    """A line of a file, where a list would be a thousand."""
    return " ".join(map(str, counts.tolist()))


def choose(runs: Runs, sources: Sources, bed: Bed) -> dict[str, Any] | None:
    """Of the Delta-encoder and of each baseline, by validation episodes of seed 0."""

    def work() -> dict[str, Any]:
        parts = sources.features(bed, 0)
        assert parts is not None, "its backbone is there by now"
        tasks = [task_of(parts["val"], bed, shots, CHOICE_KEY, CHOICE_EPISODES) for shots in SHOTS]
        fit = replace(FIT, samples=CHOICE_SAMPLES)
        scores: dict[str, float] = {}
        for index, one in enumerate(candidates()):
            deltas = trained(runs, bed, 0, one, parts["base"])
            for epoch in TRIED_EPOCHS:
                sampler = de.delta_sampler(deltas[epoch - 1])
                score = float(np.mean([np.mean(right(task, sampler, fit)) for task in tasks]))
                scores[f"{index}, {epoch}"] = score / tasks[0].config.ways / bed.queries
            tidy()
        best = max(scores, key=scores.__getitem__)
        options = {}
        for name, made in baselines(parts["base"][0].mean(axis=0)).items():
            of_each = {
                told: float(np.mean([np.mean(right_of_method(t, m, *parts["val"])) for t in tasks]))
                for told, m in made.items()
            }
            options[name] = max(of_each, key=of_each.__getitem__)
        index, epoch = map(int, best.split(", "))
        told = candidates()[index].told
        return {"candidate": index, "epoch": epoch, "told": told, "scores": scores, "options": options}

    if runs.known(f"{bed.name}, choice") is None and sources.features(bed, 0) is None:
        runs.missing.append(f"{bed.name}, choice")
        return None
    return runs.run(f"{bed.name}, choice", work)


class Cell:
    """Test episodes of a bed, seed and number of shots, with what is evaluated on them."""

    def __init__(self, runs: Runs, sources: Sources, bed: Bed, seed: int, choice: dict[str, Any]):
        self.runs, self.sources, self.bed, self.seed, self.choice = runs, sources, bed, seed, choice

    @property
    def parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = self.sources.features(self.bed, self.seed)
        assert found is not None, "checked before"
        return found

    def deltas(self, found: Plan | None = None) -> list[de.DeltaEncoder]:
        chosen = found or candidates()[self.choice["candidate"]]
        return trained(self.runs, self.bed, self.seed, chosen, self.parts["base"])

    def delta(self) -> de.DeltaEncoder:
        return self.deltas()[self.choice["epoch"] - 1]

    def main(self, shots: int) -> None:
        """Every row, each kept on its own."""
        parts = self.parts
        task = task_of(parts["test"], self.bed, shots, EPISODE_KEY, EPISODES)
        delta = cache(self.delta)
        x, y = parts["base"]

        def offset() -> Any:
            references = de.make_pairs(jax.random.key(self.seed), y, delta().config.pairs)
            return de.OffsetSampler(de.fit_offsets(x, references, delta().scaling))

        def random_classes() -> Any:
            return de.delta_sampler(de.random_class_deltas(jax.random.key(self.seed), delta(), x))

        samplers: dict[str, Callable[[], Any]] = {
            MAIN: lambda: de.delta_sampler(delta()),
            "linear offset": offset,
            "gaussian noise": lambda: de.NoiseSampler(de.fit_noise(x, y, delta().scaling)),
            "noise codes": lambda: de.delta_sampler(delta(), "noise"),
            "random-class deltas": random_classes,
        }
        for name, sampler in list(samplers.items())[: 2 if QUICK else None]:
            self.keep(shots, name, lambda sampler=sampler: right(task, sampler()))
        for name, fit in (("seeds only", replace(FIT, samples=0)), (EQUAL, of_equal_steps(0, shots))):
            self.keep(shots, name, lambda f=fit: right(task, de.SeedsAlone(delta().scaling), f))
        for name, made in baselines(x.mean(axis=0)).items():
            method = made[self.choice["options"][name]]
            self.keep(shots, name, lambda m=method: right_of_method(task, m, *parts["test"]))
        other = self.sources.protonet(self.bed, self.seed, "test")
        if other is not None:
            self.keep(shots, PROTONET, lambda: right_of_method(task, few.prototypes(), *other))
        tidy()

    def keep(self, shots: int, name: str, work: Callable[[], np.ndarray]) -> None:
        run = f"{self.bed.name}, {shots}-shot, seed {self.seed}, {name}"
        self.runs.run(run, lambda: {"right": packed(work())})

    def protocols(self, shots: int) -> None:
        """Honest and the authors', the epochs of the chosen training as candidates."""

        def work() -> dict[str, Any]:
            parts, deltas = self.parts, self.deltas()
            made = {f"epoch {i + 1}": delta for i, delta in enumerate(deltas)}
            file = self.runs.file("choice", self.bed.name, shots, f"{self.seed}.json")
            shape = {"ways": 5, "shots": shots, "queries": self.bed.queries, "episodes": PROTOCOL_EPISODES}
            options = {"fit": FIT, "chunk": CHUNK, **shape}
            if not file.exists():
                de.choose_on_validation(jax.random.key(CHOICE_KEY), made, *parts["val"], file, **options)
            found = de.protocols(jax.random.key(EPISODE_KEY), made, *parts["test"], file, **options)
            say(found.table())
            return found.to_json()

        self.runs.run(f"{self.bed.name}, {shots}-shot, seed {self.seed}, protocols", work)
        tidy()

    def ablations(self) -> None:
        """1-shot: one thing changed."""
        task = task_of(self.parts["test"], self.bed, 1, EPISODE_KEY, ABLATION_EPISODES)
        chosen = candidates()[self.choice["candidate"]]
        base = {"scaling": chosen.config.scaling}
        rate = chosen.train.learning_rate
        here = f"{self.bed.name}, ablation, seed {self.seed}"

        def run(name: str, work: Callable[[], np.ndarray]) -> None:
            self.runs.run(f"{here}, {name}", lambda: {"right": packed(work())})

        for samples in CURVE:
            fit = replace(FIT, samples=samples)
            run(f"samples {samples}", lambda f=fit: right(task, de.delta_sampler(self.delta()), f))
            if samples < SAMPLES:
                name, equal = f"samples {samples}, equal steps", of_equal_steps(samples)
                run(name, lambda f=equal: right(task, de.delta_sampler(self.delta()), f))
        run("samples 0", lambda: right(task, de.SeedsAlone(self.delta().scaling), replace(FIT, samples=0)))
        bare = replace(FIT, include_seeds=False)
        if not QUICK:
            run("without seeds", lambda: right(task, de.delta_sampler(self.delta()), bare))
            run("normal codes", lambda: right(task, de.delta_sampler(self.delta(), "normal")))
        for kind in ("means",) if QUICK else ("ridge", "lbfgs", "means"):
            fit = replace(FIT, classifier=de.ClassifierConfig(kind))
            run(f"classifier {kind}", lambda f=fit: right(task, de.delta_sampler(self.delta()), f))
        epochs = self.choice["epoch"]
        plans = [plan(f"code {n}", rate, epochs, code=n, **base) for n in (1, 4, 64)]
        plans += [plan(f"loss {n}", rate, epochs, loss=n, **base) for n in ("l1", "l2")]
        plans.append(plan("loss stop-gradient", rate, epochs, stop_gradient_weights=True, **base))
        plans += [plan(f"pairs {n}", rate, epochs, pairs=n, **base) for n in ("no_self", "nearest")]
        plans.append(plan("pairs of any class", rate, epochs, pairs="shuffled_labels", **base))
        plans.append(plan("dropout 0", rate, epochs, dropout=0.0, **base))
        plans += [plan(f"{n} seen classes", rate, epochs, classes=n, **base) for n in (25, 50)]
        plans.append(plan("authors' sizes and rate", 1e-5, 6, hidden=8_192))
        for one in [] if QUICK else plans:
            run(one.told, lambda p=one: right(task, de.delta_sampler(self.deltas(p)[-1])))
            tidy()

    def checks(self) -> None:
        """Of the chosen Delta-encoder."""

        def work() -> dict[str, Any]:
            delta, parts = self.delta(), self.parts
            (x, y), (new, new_y) = parts["base"], parts["val"]
            key = jax.random.key(self.seed)
            references = de.make_pairs(key, y)
            seeds = new[np.unique(new_y, return_index=True)[1]]
            made = np.asarray(de.synthesize(key, delta, seeds, 64, include_seeds=False))
            flat = made.reshape(-1, delta.width)
            of_seed = np.repeat(np.arange(len(seeds)), made.shape[1])
            real = np.asarray(delta.scaling(new))
            spread = de.within_class_spread(flat, of_seed)
            return {
                "reconstruction": de.reconstruction(key, delta, x, references)._asdict(),
                "code_spread": de.code_spread(key, delta, seeds)._asdict(),
                "probes": de.linear_probes(key, delta, x, y, references)._asdict(),
                "spread_synthetic_over_real": spread / de.within_class_spread(real, new_y),
                "nearest_real_distance": float(de.nearest_real(flat, real).distances.mean()),
                "code_std": np.asarray(delta.bank).std(axis=0).tolist(),
            }

        self.runs.run(f"{self.bed.name}, checks, seed {self.seed}", work)

    def generalised(self) -> None:
        """Base and test classes together, where there is a test set of the base classes."""

        def work(samples: int) -> dict[str, Any]:
            parts = self.parts
            first = int(parts["base"][1].max()) + 1
            unseen = parts["test"][0], parts["test"][1] + first
            options = {"samples": samples, "draws": 3, "classifier": CLASSIFIER}
            key = jax.random.key(EPISODE_KEY)
            found = de.generalised(key, self.delta(), parts["base"], parts["closed"], unseen, **options)
            return {name: told for name, told in found.to_json().items() if name != "per_class"}

        for samples in (0, SAMPLES):
            name = f"{self.bed.name}, generalised, seed {self.seed}, samples {samples}"
            self.runs.run(name, lambda s=samples: work(s))
        tidy()


def units(runs: Runs, sources: Sources) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Work after the choices, the most wanted first; each needs its backbone alone."""
    for seed in range(SEEDS):
        for bed in BEDS:
            choice = runs.known(f"{bed.name}, choice")
            if choice is None:
                continue
            cell = Cell(runs, sources, bed, seed, choice)
            for shots in SHOTS:
                yield f"{bed.name}, {shots}-shot, seed {seed}", lambda c=cell, s=shots: c.main(s)
            if seed < PROTOCOL_SEEDS:
                for shots in SHOTS:
                    yield f"{bed.name}, protocols, seed {seed}", lambda c=cell, s=shots: c.protocols(s)
            if seed < ABLATION_SEEDS and bed is BEDS[0]:
                yield f"{bed.name}, ablations, seed {seed}", cell.ablations
            if seed == 0:
                yield f"{bed.name}, checks", cell.checks
                if bed.data == "tiny_imagenet":
                    yield f"{bed.name}, generalised", cell.generalised


def summary(runs: Runs, bed: Bed, start: str, seeds: int, against: str) -> dict[str, Any] | None:
    """Rows of "START, seed N, NAME", with paired differences: `against` minus the row."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for seed in range(seeds):
        prefix = f"{bed.name}, {start}, seed {seed}, "
        for run, figures in runs.kept.done.items():
            if run.startswith(prefix) and "right" in figures:
                counts = np.array(figures["right"].split(), int) / (5 * bed.queries)
                found.setdefault(run.removeprefix(prefix), {})[seed] = counts
    if against not in found:
        return None
    mean_of = few.results.mean_of
    rows = {
        name: {**over_seeds([list(mean_of(one)) for one in of_seed.values()]), "seeds": len(of_seed)}
        for name, of_seed in found.items()
    }
    for name, of_seed in found.items():
        both = [list(mean_of(found[against][s] - one)) for s, one in of_seed.items() if s in found[against]]
        if name != against and both:
            rows[name][f"{against} minus this"] = over_seeds(both)
    return rows


def main() -> None:
    if not os.environ.get("FRUGALJAX_DATA"):
        raise SystemExit("set FRUGALJAX_DATA to the folder with tiny_imagenet and omniglot")
    start = time.monotonic()
    told = settings()

    def late() -> bool:
        return time.monotonic() - start > LIMIT_S

    runs = Runs("delta_table", told, late)
    sources = Sources(runs, late)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    for i, bed in enumerate(BEDS):
        if i % parts == part % parts:
            choose(runs, sources, bed)
    runs.reload()
    for i, (name, work) in enumerate(list(units(runs, sources))):
        if i % parts != part % parts:
            continue
        seed = int(name.split("seed ")[1]) if "seed " in name else 0
        bed = next(b for b in BEDS if name.startswith(f"{b.name}, "))
        if late() or sources.features(bed, seed) is None:
            runs.missing.append(name)
            continue
        work()
    chosen = {bed.name: runs.known(f"{bed.name}, choice") for bed in BEDS}
    waits = [name for name, choice in chosen.items() if choice is None]
    if parts > 1:
        say(f"part {part}/{parts}: {len(runs.missing)} runs are missing, no choice yet: {', '.join(waits)}")
        return
    few_shot = {
        bed.name: {f"{shots}-shot": summary(runs, bed, f"{shots}-shot", SEEDS, MAIN) for shots in SHOTS}
        for bed in BEDS
    }
    table = {
        "settings": {**told, "seeds": SEEDS},
        "choices": chosen,
        "few_shot": few_shot,
        "above_every_baseline_at_1_shot": {
            name: _above(cells["1-shot"]) for name, cells in few_shot.items() if cells["1-shot"]
        },
        "protocols": {
            name: figures["protocols"] for name, figures in runs.kept.done.items() if "protocols" in figures
        },
        "ablations": summary(runs, BEDS[0], "ablation", ABLATION_SEEDS, f"samples {SAMPLES}"),
        "checks": {name: one for name, one in runs.kept.done.items() if ", checks, " in name},
        "generalised": {name: one for name, one in runs.kept.done.items() if ", generalised, " in name},
        "missing": runs.missing + waits,
        "complete": not runs.missing and not waits,
        "seconds": round(sum(run["seconds"] for run in runs.kept.done.values())),
    }
    tell(few_shot)
    if not QUICK:
        table["runs"] = runs.kept.done
    finish("delta_table", table)


def _above(rows: dict[str, Any]) -> dict[str, Any]:
    """Whether the Delta-encoder is above each other row, and whether both intervals say so."""
    key = f"{MAIN} minus this"
    return {
        name: {"mean": row[key]["mean"], "above": row[key]["mean"] > 0}
        for name, row in rows.items()
        if key in row
    }


def tell(few_shot: dict[str, Any]) -> None:
    for bed, cells in few_shot.items():
        for cell, rows in cells.items():
            say(f"{bed}, {cell}")
            for name, row in sorted((rows or {}).items(), key=lambda item: -item[1]["mean"]):
                gap = row.get(f"{MAIN} minus this")
                told = "" if gap is None else f"  {MAIN} minus this {100 * gap['mean']:+.2f}"
                say(f"  {name:22} {100 * row['mean']:.2f} %{told}")


if __name__ == "__main__":
    main()
