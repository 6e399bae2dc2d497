"""Few-shot accuracy against model ratio: bits searched by few-shot accuracy, and by agreement.

A network that was trained on some classes is compressed and then learns others from a few examples, by
prototypes on the features before its classifier. Two searches with the same budget, images, starts and costs:
  few-shot   minimises the error over drawn episodes of validation classes, on quantized features
  agreement  minimises the whole network's disagreement with full precision on the same images, unlabelled
Sizes and bit-operations are those of the part that is kept; the classifier beyond it is pinned to 8 bits.
For each limit on the model ratio each search's best point within it is taken, by its own error, and what is
reported is the few-shot accuracy on test classes that neither search saw, by fewshotjax.evaluate.

Networks: a small residual network trained here on Tiny-ImageNet's base classes at 32 pixels, whose validation
and test classes it never saw; and EfficientNet-Lite0 at 64 pixels with ImageNet weights, which contain those
classes: compression is compared there, not few-shot learning of unseen classes.
Runs are kept, so an interrupted table goes on. TABLE_LIMIT_S ends it early; what is missing is said.
TABLE_PART=0/2 runs every second network; a run without it puts the table together. Needs FRUGALJAX_DATA.
Estimate: 2 hours on 2 cores, from the evaluator's speed; not measured as a whole. QUICK=1: scikit-learn's
digits, trained on six of them and tested on the others, which shows that it works, and no more.
"""

import os
import time
import warnings
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import fewshotjax as few
import hwmodel as hw
import nemojax as nemo
from fewshotjax.episodes import Episode, EpisodeConfig, class_table, draw_many

from .common import QUICK, finish, interval, say
from .kept import Kept
from .small_networks import Block, Labelled, Training, train

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
BUDGET, SEEDS, POPULATION = (40, 2, 10) if QUICK else (300, 5, 30)
LIMITS = (0.25, 0.125, 0.09, 0.075)
WAYS, SHOTS, QUERIES = (2, 1, 5) if QUICK else (5, 1, 15)
EPISODES, TEST_EPISODES = (50, 200) if QUICK else (300, 5_000)
CALIBRATION, EACH = (60, 20) if QUICK else (128, 20)  # images of each class that is searched on
TEST_EACH = 40 if QUICK else 100
NOVEL = {"novel_val": EACH, "novel_test": TEST_EACH}  # images of each class
if QUICK:
    TRAINING = Training(epochs=20, batch=100, rate=1e-2, decay=5e-2)
else:
    TRAINING = Training(epochs=12, batch=128, rate=1e-2, decay=5e-2, flips=True)
KINDS = ("few-shot", "agreement")


class SmallNet(nn.Module):
    """Residual blocks of small_networks.py behind a stem of stride 2, and a classifier."""

    classes: int
    widths: tuple[int, ...] = (32, 64, 128)
    stride: int = 2

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(self.widths[0], (3, 3), self.stride, use_bias=False, name="stem")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="stem_bn")(x))
        for stage, channels in enumerate(self.widths):
            x = Block(channels, 2 if stage else 1, name=f"block{stage}")(x, train)
        return nn.Dense(self.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


class Case(NamedTuple):
    """A quantized network, and images of classes to search and to report on."""

    network: nemo.QuantizedNetwork
    searched: Labelled
    tested: Labelled


def some(part: Labelled, each: int) -> Labelled:
    """The first images of every class, labels from 0."""
    classes, labels = np.unique(part.labels, return_inverse=True)
    rows = np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(len(classes))])
    return Labelled(part.images[rows], labels[rows].astype(np.int32))


def trained(key: int, part: Labelled, model: SmallNet) -> nemo.Network:
    with jax.numpy_dtype_promotion("standard"):
        variables = train(jax.random.key(key), model, part, TRAINING)
    return nemo.Network("small", model.apply, variables, weights_source="trained here")


def digits() -> Case:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / 16).astype(np.float32)[..., None]
    whole = Labelled(images, found.target.astype(np.int32))
    base, val, test = (
        Labelled(images[rows], whole.labels[rows])
        for rows in (np.isin(whole.labels, c) for c in (range(6), (6, 7), (8, 9)))
    )
    network = trained(0, base, SmallNet(6, (8,), 1))
    return Case(nemo.quantize(network, base.images[:CALIBRATION]), some(val, EACH), some(test, TEST_EACH))


def tiny(part: str, pixels: int) -> Labelled:
    found = few.tiny_imagenet(os.environ["FRUGALJAX_DATA"], part, pixels=pixels)
    return Labelled(found.images, found.labels.astype(np.int32))


def small() -> Case:
    def scaled(part: Labelled) -> Labelled:
        return Labelled((part.images / np.float32(127.5) - 1).astype(np.float32), part.labels)

    base = scaled(tiny("base_train", 32))
    order = np.random.default_rng(0).permutation(len(base.labels))
    base = Labelled(base.images[order], base.labels[order])
    network = trained(0, base, SmallNet(int(base.labels.max()) + 1))
    val, test = (
        scaled(some(tiny(part, 32), n)) for part, n in (("novel_val", EACH), ("novel_test", TEST_EACH))
    )
    return Case(nemo.quantize(network, base.images[:CALIBRATION]), val, test)


def efficientnet() -> Case:
    net = nemo.efficientnet_lite0("imagenet", resolution=64)

    def normalised(part: Labelled) -> Labelled:
        return Labelled(np.asarray(net.preprocess.normalize(part.images), np.float32), part.labels)

    val, test = (
        normalised(some(tiny(p, 64), n)) for p, n in (("novel_val", EACH), ("novel_test", TEST_EACH))
    )
    base = tiny("base_test", 64)
    rows = np.random.default_rng(0).permutation(len(base.labels))[:CALIBRATION]
    calibration = np.asarray(net.preprocess.normalize(base.images[rows]), np.float32)
    return Case(nemo.quantize(net, calibration), val, test)


CASES = {"digits": digits} if QUICK else {"small": small, "efficientnet_lite0": efficientnet}


def episodes_error(features: jax.Array, episodes: Episode) -> jax.Array:
    """1 - accuracy of prototypes, by fewshotjax's pure functions."""
    method = few.prototypes()
    labels = np.repeat(np.arange(WAYS, dtype=np.int32), SHOTS)

    def one(episode: Episode) -> jax.Array:
        support, query = (features[rows.reshape(-1)] for rows in (episode.support, episode.query))
        scores = method.predict(method.fit(jax.random.key(0), support, labels, WAYS), query)
        return jnp.mean(
            (jnp.argmax(scores, axis=1) == jnp.repeat(jnp.arange(WAYS), QUERIES)).astype(jnp.float32)
        )

    return 1 - jnp.mean(jax.lax.map(one, episodes, batch_size=50))


def tasks(case: Case) -> tuple[nemo.QuantizedNetwork, dict[str, nemo.Task]]:
    """The network without its classifier, and the task of each kind of search."""
    part = nemo.headless(case.network)
    points = len(part.workload.points)

    def ratio(bits: jax.Array) -> jax.Array:
        return hw.model_ratio(part.workload, bits[:points])

    def operations(bits: jax.Array) -> jax.Array:
        return hw.bit_operations_ratio(part.workload, bits[:points])

    costs = {"model_ratio": ratio, "bitops_max": operations}
    config = EpisodeConfig(WAYS, SHOTS, QUERIES)
    episodes = draw_many(jax.random.key(1), class_table(case.searched.labels, config), config, EPISODES)
    left = case.network.workload.point_names[points:]
    space = nemo.search_space(case.network, pins=dict.fromkeys(left, 8))
    return part, {
        "few-shot": nemo.features_task(
            part, case.searched.images, episodes_error, episodes, name="fewshot_error", costs=costs
        ),
        "agreement": nemo.fidelity(
            case.network, case.searched.images, measure="disagreement", space=space, costs=costs
        ),
    }


_features = jax.jit(nemo.QuantizedNetwork.quantized_logits)


def accuracy(part: nemo.QuantizedNetwork, bits: np.ndarray, tested: Labelled) -> list[float]:
    """Few-shot accuracy on the test classes, and half of its interval over episodes."""
    features = np.asarray(_features(part, jnp.asarray(bits, jnp.int32), tested.images))
    with warnings.catch_warnings():  # features of few bits coincide where their images do not
        warnings.simplefilter("ignore", UserWarning)
        found = few.evaluate(
            jax.random.key(2),
            few.prototypes(),
            features,
            tested.labels,
            ways=WAYS,
            shots=SHOTS,
            queries=QUERIES,
            episodes=TEST_EPISODES,
        )
    return [float(found.accuracy.mean), float(found.accuracy.half)]


def searched(part: nemo.QuantizedNetwork, task: nemo.Task, tested: Labelled, seed: int) -> dict[str, Any]:
    """Test accuracy at each limit of one search's best point within it."""
    species = {"species": ("continuous", "floor")} if QUICK else {"species": nemo.PRESETS["guided"].species}
    config = nemo.NemoConfig(population=POPULATION, **species)
    front = nemo.search(jax.random.key(seed), task, budget=BUDGET, config=config, warm_start="sqnr").front
    points = len(part.workload.points)
    found = {}
    for limit in LIMITS:
        within = np.flatnonzero(front.costs[:, 1] <= limit + 1e-6)
        if len(within):
            bits = front.bits[within[front.costs[within, 0].argmin()], :points]
            found[str(limit)] = accuracy(part, bits, tested)
    return {"accuracy": found, "points": len(front)}


def row(kept: Kept, name: str) -> dict[str, Any]:
    """Accuracies at each limit, and the paired difference where both searches have a point in all seeds."""
    out: dict[str, Any] = {"full_precision": kept.done.get(f"{name}, full precision"), "limits": {}}
    for limit in map(str, LIMITS):
        values = {}
        for kind in KINDS:
            runs = [kept.done.get(f"{name}, {kind}, seed {seed}") for seed in range(SEEDS)]
            if all(run and limit in run["accuracy"] for run in runs):
                values[kind] = np.array([run["accuracy"][limit][0] for run in runs])
        found = {kind: interval(one) for kind, one in values.items()}
        if len(values) == len(KINDS):
            found["few-shot minus agreement"] = interval(values["few-shot"] - values["agreement"])
        out["limits"][limit] = found
    return out


def main() -> None:
    if not QUICK and not os.environ.get("FRUGALJAX_DATA"):
        raise SystemExit("set FRUGALJAX_DATA to the folder with tiny_imagenet")
    start, missing = time.monotonic(), []
    settings = {
        "budget": BUDGET,
        "population": POPULATION,
        "episodes": {
            "ways": WAYS,
            "shots": SHOTS,
            "queries": QUERIES,
            "search": EPISODES,
            "test": TEST_EPISODES,
        },
        "images": {"calibration": CALIBRATION, "of_a_class": EACH, "of_a_test_class": TEST_EACH},
        "training": repr(TRAINING),
        "limits": list(LIMITS),
        "interval": "95 %, Student's t over seeds, which share network and test episodes",
    }
    kept = Kept("fewshot_compression", settings)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    for name, make in list(CASES.items())[part::parts]:
        todo = [f"{name}, full precision"]
        todo += [f"{name}, {kind}, seed {seed}" for seed in range(SEEDS) for kind in KINDS]
        todo = [item for item in todo if item not in kept.done]
        case = make() if todo and time.monotonic() - start <= LIMIT_S else None
        kept_part, both = (None, {}) if case is None else tasks(case)  # once: nothing compiles anew
        for item in todo:
            if case is None or kept_part is None or time.monotonic() - start > LIMIT_S:
                missing.append(item)
                continue
            begun = time.monotonic()
            if item.endswith("full precision"):
                bits = np.full(len(kept_part.workload.points), 32)
                figures: dict[str, Any] = {"accuracy": accuracy(kept_part, bits, case.tested)}
            else:
                _, kind, seed = item.rsplit(", ", 2)
                figures = searched(kept_part, both[kind], case.tested, int(seed.removeprefix("seed ")))
            kept.add(item, {**figures, "seconds": round(time.monotonic() - begun, 1)})
            say(f"{item}: {kept.done[item]}")
        jax.clear_caches()
    if parts > 1:
        return
    finish(
        "fewshot_compression",
        {
            "settings": {**settings, "seeds": SEEDS},
            "networks": {name: row(kept, name) for name in CASES},
            "missing": missing,
            "complete": not missing,
            "runs": kept.done,
        },
    )


if __name__ == "__main__":
    main()
