"""What delta_table evaluates: rows, protocols, ablations and checks of a bed and seed.

Each run is kept on its own, so that an interrupted table goes on.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np

import fewshotjax as few
from fewshotjax import delta as de
from fewshotjax.episode_task import EpisodeTask, episode_task

from .common import QUICK, say
from .delta_runs import Plan, Sources, candidates, plan, trained
from .repmet_cells import CHOICE_KEY, EPISODE_KEY, Bed
from .repmet_runs import Runs

EPISODES, ABLATION_EPISODES, PROTOCOL_EPISODES = (20, 20, 20) if QUICK else (1_000, 400, 200)
SAMPLES = 32 if QUICK else 1_024
CLASSIFIER = de.ClassifierConfig(epochs=3) if QUICK else de.ClassifierConfig()
CHUNK, SHOTS = 8, ((1,) if QUICK else (1, 5))
CURVE = (32,) if QUICK else (1, 4, 16, 64, 256, 512, 1_024, 2_048)
FIT = de.EpisodeFit(SAMPLES, classifier=CLASSIFIER)
STEPS = CLASSIFIER.epochs * math.ceil(5 * (SAMPLES + 1) / CLASSIFIER.batch)  # of the classifier, 1-shot
MAIN, EQUAL = "delta-encoder", "seeds only, equal steps"
AUTHORS = "delta-encoder, authors' classifier"
PROTONET = "another backbone: trained prototypical"
# That validation chooses from for whatever makes samples; "adam" is the authors'.
CLASSIFIERS = {"adam": CLASSIFIER} | (
    {}
    if QUICK
    else {
        f"{kind}, lambda {r:g}": de.ClassifierConfig(kind, regularization=r)
        for kind, values in (("ridge", (1.0, 100.0)), ("lbfgs", (1.0, 100.0)))
        for r in values
    }
    | {"means": de.ClassifierConfig("means")}
)
SAMPLING = ("linear offset", "gaussian noise")  # controls that take one of these, too

LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
SCALINGS = ("none",) if QUICK else ("none", "l2", "standard")
NOISE = (1.0,) if QUICK else (0.25, 0.5, 1.0, 2.0)  # times the spread within seen classes


def controls(base: tuple[np.ndarray, np.ndarray], seed: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Of each what makes its sampler, by the option that validation chooses from."""
    x, y = base

    def offset(kind: str) -> Any:
        references = de.make_pairs(jax.random.key(seed), y)
        return de.OffsetSampler(de.fit_offsets(x, references, de.fit_scaling(kind, x)))

    def noise(kind: str, size: float) -> Any:
        found = de.fit_noise(x, y, de.fit_scaling(kind, x))
        return de.NoiseSampler(de.Noise(size * found.root, found.scaling))

    alone = {kind: lambda kind=kind: de.SeedsAlone(de.fit_scaling(kind, x)) for kind in SCALINGS}
    return {
        "linear offset": {kind: lambda kind=kind: offset(kind) for kind in SCALINGS},
        "gaussian noise": {
            f"{kind}, {size:g} of the spread": lambda kind=kind, size=size: noise(kind, size)
            for kind in SCALINGS
            for size in NOISE
        },
        "seeds only": alone,
        EQUAL: alone,
    }


def fit_of(name: str, shots: int, classifier: str = "adam") -> de.EpisodeFit:
    """Of a row that makes samples, or of a control."""
    if name == EQUAL:
        return of_equal_steps(0, shots)
    return replace(FIT, samples=0 if name == "seeds only" else SAMPLES, classifier=CLASSIFIERS[classifier])


def baselines(base: np.ndarray) -> dict[str, dict[str, few.Method]]:
    """Of each the options that validation chooses from; `base`: features of the seen classes."""
    scaled = {kind: de.fit_scaling(kind, base) for kind in SCALINGS}
    repmet = few.RepMetConfig(modes=1, embedding=None)
    if QUICK:
        return {"prototypes": {k: few.through(s, few.prototypes()) for k, s in scaled.items()}}
    return {
        "nearest neighbour": {k: few.through(s, few.nearest_neighbour()) for k, s in scaled.items()},
        "prototypes": {k: few.through(s, few.prototypes()) for k, s in scaled.items()},
        "simpleshot": {"L2N": few.simpleshot(), "CL2N": few.simpleshot(base.mean(axis=0))},
        "logistic": {f"lambda {r:g}": few.logistic(r) for r in LAMBDAS},
        "ridge": {f"lambda {r:g}": few.ridge(r) for r in LAMBDAS},
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
        chosen = found or candidates(self.bed)[self.choice["candidate"]]
        return trained(self.runs, self.bed, self.seed, chosen, self.parts["base"])

    def delta(self) -> de.DeltaEncoder:
        return self.deltas()[self.choice["epoch"] - 1]

    def main(self, shots: int) -> None:
        """Every row but those of `other_codes`, each kept on its own."""
        parts, classifiers = self.parts, self.choice["classifiers"]
        task, x = self.task(shots), parts["base"][0]
        delta = cache(self.delta)
        for name, kind in {MAIN: classifiers[MAIN], AUTHORS: "adam"}.items():
            if name == MAIN or (kind != classifiers[MAIN] and not QUICK):
                fit = fit_of(name, shots, kind)
                self.keep(shots, name, lambda f=fit: right(task, de.delta_sampler(delta()), f))
        options = self.choice["options"]
        for name, makers in controls(parts["base"], self.seed).items():
            make, fit = makers[options[name]], fit_of(name, shots, classifiers.get(name, "adam"))
            self.keep(shots, name, lambda make=make, f=fit: right(task, make(), f))
        for name, made in baselines(x).items():
            method = made[options[name]]
            self.keep(shots, name, lambda m=method: right_of_method(task, m, *parts["test"]))
        other = self.sources.protonet(self.bed, self.seed, "test")
        if other is not None:
            self.keep(shots, PROTONET, lambda: right_of_method(task, few.prototypes(), *other))
        tidy()

    def other_codes(self, shots: int) -> None:
        """Rows of the chosen Delta-encoder with codes that are not those of seen pairs."""
        task, delta = self.task(shots), cache(self.delta)
        fit, key = fit_of(MAIN, shots, self.choice["classifiers"][MAIN]), jax.random.key(self.seed)
        samplers = {
            "noise codes": lambda: de.delta_sampler(delta(), "noise"),
            "random-class deltas": lambda: de.delta_sampler(
                de.random_class_deltas(key, delta(), self.parts["base"][0])
            ),
        }
        for name, sampler in samplers.items():
            self.keep(shots, name, lambda sampler=sampler: right(task, sampler(), fit))
        tidy()

    def task(self, shots: int) -> EpisodeTask:
        return task_of(self.parts["test"], self.bed, shots, EPISODE_KEY, EPISODES)

    def keep(self, shots: int, name: str, work: Callable[[], np.ndarray]) -> None:
        run = f"{self.bed.name}, {shots}-shot, seed {self.seed}, {name}"
        self.runs.run(run, lambda: {"right": packed(work())})

    def protocols(self, shots: int) -> None:
        """Honest and the authors', all epochs of the chosen training as candidates; also of 10 episodes."""

        def work() -> dict[str, Any]:
            parts, deltas = self.parts, self.deltas()
            made = {f"epoch {n + 1}": one for n, one in enumerate(deltas)}
            file = self.runs.file("choice", self.bed.name, shots, f"{self.seed}.json")
            shape = {"ways": 5, "shots": shots, "queries": self.bed.queries, "episodes": PROTOCOL_EPISODES}
            options = {"fit": FIT, "chunk": CHUNK, **shape}
            if not file.exists():
                de.choose_on_validation(jax.random.key(CHOICE_KEY), made, *parts["val"], file, **options)
            found = de.protocols(jax.random.key(EPISODE_KEY), made, *parts["test"], file, **options)
            few_episodes = replace(found, authors_episodes=10)
            say(found.table())
            return {**found.as_dict(), "of_the_first_10": few_episodes.as_dict()["protocols"]}

        self.runs.run(f"{self.bed.name}, {shots}-shot, seed {self.seed}, protocols", work)
        tidy()

    def ablations(self) -> None:
        """1-shot: one thing changed."""
        task = task_of(self.parts["test"], self.bed, 1, EPISODE_KEY, ABLATION_EPISODES)
        chosen = candidates(self.bed)[self.choice["candidate"]]
        base = {"scaling": chosen.config.scaling, "code": chosen.config.code}
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
        plans = [plan(f"code {n}", rate, epochs, **{**base, "code": n}) for n in (1, 4, 16, 64)]
        plans += [plan(f"loss {n}", rate, epochs, loss=n, **base) for n in ("l1", "l2")]
        plans.append(plan("loss stop-gradient", rate, epochs, stop_gradient_weights=True, **base))
        plans += [plan(f"pairs {n}", rate, epochs, pairs=n, **base) for n in ("no_self", "nearest")]
        plans.append(plan("pairs of any class", rate, epochs, pairs="shuffled_labels", **base))
        plans.append(plan("dropout 0", rate, epochs, dropout=0.0, **base))
        plans += [plan(f"{n} seen classes", rate, epochs * 100 // n, classes=n, **base) for n in (25, 50)]
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
            offsets = de.fit_offsets(x, references, delta.scaling)
            moved = np.asarray(de.synthesize_offsets(key, offsets, seeds, 64, include_seeds=False))
            moved = moved.reshape(-1, delta.width)
            seed_labels = np.repeat(np.unique(new_y), 64)
            of_seed = np.repeat(np.arange(len(seeds)), made.shape[1])
            real = np.asarray(delta.scaling(new))
            spread = de.within_class_spread(flat, of_seed)
            spreads = {  # those that the backbone was trained on may lie closer together
                part: de.within_class_spread(np.asarray(delta.scaling(parts[part][0])), parts[part][1])
                for part in ("base", "closed", "val")
                if part in parts
            }
            return {
                "reconstruction": de.reconstruction(key, delta, x, references)._asdict(),
                "code_spread": de.code_spread(key, delta, seeds)._asdict(),
                "probes": de.linear_probes(key, delta, x, y, references)._asdict(),
                "spread_synthetic_over_real": spread / de.within_class_spread(real, new_y),
                "spread_within_classes": spreads,
                "told_from_real": {
                    "delta-encoder": de.separability(key, flat, seed_labels, real, new_y),
                    "linear offset": de.separability(key, moved, seed_labels, real, new_y),
                },
                "nearest_real_distance": float(de.nearest_real(flat, real).distances.mean()),
                "code_std": np.asarray(delta.bank).std(axis=0).tolist(),
            }

        self.runs.run(f"{self.bed.name}, checks, seed {self.seed}", work)

    def generalised(self) -> None:
        """Base and test classes together, where there is a test set of the base classes."""

        def work(samples: int, classifier: str) -> dict[str, Any]:
            parts = self.parts
            first = int(parts["base"][1].max()) + 1
            unseen = parts["test"][0], parts["test"][1] + first
            options = {"samples": samples, "draws": 5, "classifier": CLASSIFIERS[classifier]}
            key = jax.random.key(EPISODE_KEY)
            found = de.generalised(key, self.delta(), parts["base"], parts["closed"], unseen, **options)
            return {name: told for name, told in found.as_dict().items() if name != "per_class"}

        for kind in ("adam", "ridge, lambda 1", "means"):
            for samples in (0, 64, SAMPLES):
                name = f"{self.bed.name}, generalised, seed {self.seed}, {kind}, samples {samples}"
                self.runs.run(name, lambda s=samples, c=kind: work(s, c))
        tidy()
