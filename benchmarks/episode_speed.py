"""10,000 few-shot episodes on features that are kept: seconds, and episodes a second beside easyfsl's.

5-way 5-shot 15-query nearest-class-mean episodes of 50 classes with 120 examples of 1,280 features, as many
as Tiny-ImageNet's test classes have. easyfsl 1.5 runs its own loop (`easyfsl.utils.evaluate`) with its
prototypical head and its own collation on the very same episodes, in turn with ours; it is handed their
indices, while our time includes drawing them. Features are random numbers around class means, so that
accuracies are neither 0 nor 1; both must agree on every query up to ties. The other methods' seconds stand
beside, ours alone. "from features" is ours without the table of inner products (fewshotjax/products.py).
"""

import time
from unittest import mock

import jax
import numpy as np

import fewshotjax as fs

from .common import QUICK, finish, say, time_side_by_side
from .zoo_torch import torchvision

CLASSES, PER_CLASS, WIDTH = 50, 120, 1_280
WAYS, SHOTS, QUERIES = 5, 5, 15
EPISODES, RIVALS = (
    10_000,
    200 if QUICK else 1_000,
)  # of easyfsl in each round: its time grows with their number
ROUNDS = 3 if QUICK else 9
SHARE = 10 if QUICK else 1  # of the episodes, what other methods run
OTHERS = ("repmet", "matching", "simpleshot", "nearest_neighbour", "logistic", "ridge", "linear_head")


def main() -> None:
    rng = np.random.default_rng(0)
    centres = 0.1 * rng.normal(size=(CLASSES, 1, WIDTH))
    features = (centres + rng.normal(size=(CLASSES, PER_CLASS, WIDTH))).reshape(-1, WIDTH).astype(np.float32)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS).astype(np.int32)
    shape = {"ways": WAYS, "shots": SHOTS, "queries": QUERIES}
    key = jax.random.key(0)
    config = fs.EpisodeConfig(**shape)
    drawn = fs.draw_many(key, fs.class_table(labels, config), config, EPISODES)
    rival = Easyfsl(features, labels, drawn)
    start = time.perf_counter()
    found = fs.evaluate(key, fs.prototypes(), features, labels, episodes=EPISODES, **shape)
    first = time.perf_counter() - start

    def ours() -> None:
        fs.evaluate(key, fs.prototypes(), features, labels, episodes=EPISODES, **shape)

    def from_features() -> None:
        with mock.patch("fewshotjax.evaluation.table_pays", return_value=False):
            ours()

    times = time_side_by_side(
        {"ours": ours, "ours, from features": from_features, "easyfsl": rival.run}, ROUNDS
    )
    rates = {"ours": EPISODES / times["ours"], "easyfsl": RIVALS / times["easyfsl"]}
    different = int((rival.predictions() != found.predictions[:RIVALS]).sum())
    if different > 1e-4 * found.predictions[:RIVALS].size:
        raise SystemExit(f"{different} predictions differ: these are not the same classifiers")
    ours_same = float(found.accuracies[:RIVALS].mean())
    say(f"accuracy on the same {RIVALS} episodes: ours {ours_same:.6f}, easyfsl {rival.accuracy:.6f}")
    others = {}
    for name in OTHERS:
        method = fs.by_name(name)

        def run(m: fs.Method = method) -> None:
            fs.evaluate(key, m, features, labels, episodes=EPISODES // SHARE, **shape)

        others[name] = float(np.median(time_side_by_side({name: run}, 3)[name])) * SHARE
        say(f"{name}: {others[name]:.2f} s for {EPISODES} episodes" + ", from a tenth of them" * QUICK)
    finish(
        "episode_speed",
        {
            "settings": {
                **shape,
                "episodes": EPISODES,
                "features": WIDTH,
                "classes": CLASSES,
                "examples_per_class": PER_CLASS,
                "easyfsl_episodes": RIVALS,
                "rounds": ROUNDS,
                "seed": 0,
            },
            "seconds_10000": float(np.median(times["ours"])),
            "seconds_10000_least": float(times["ours"].min()),
            "seconds_10000_from_features": float(np.median(times["ours, from features"])),
            "seconds_first_call": first,
            "episodes_per_s": {name: float(np.median(rate)) for name, rate in rates.items()},
            "ratio_vs_easyfsl": float(np.median(rates["ours"] / rates["easyfsl"])),
            "accuracy": {"ours": ours_same, "easyfsl": rival.accuracy},
            "different_predictions": different,
            "accuracy_all": found.accuracy.mean,
            "seconds_10000_others": others,
        },
    )


class Easyfsl:
    """easyfsl's evaluation loop over given episodes."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, drawn: fs.Episode):
        torchvision()  # which easyfsl imports, mended where it lacks operators
        import torch
        from easyfsl.datasets import FeaturesDataset
        from easyfsl.methods import PrototypicalNetworks
        from easyfsl.samplers import TaskSampler

        names = [str(label) for label in range(CLASSES)]
        data = FeaturesDataset(labels.tolist(), torch.from_numpy(features), names)
        rows = np.concatenate([drawn.support, drawn.query], axis=2).reshape(EPISODES, -1)[:RIVALS].tolist()
        # Its TaskSampler hands `data_source` to a base class that takes none any more; what it collates with
        # needs the shape alone.
        sampler = TaskSampler.__new__(TaskSampler)
        sampler.n_way, sampler.n_shot, sampler.n_query = WAYS, SHOTS, QUERIES
        self.loader = torch.utils.data.DataLoader(
            data, batch_sampler=rows, collate_fn=sampler.episodic_collate_fn
        )
        self.model = PrototypicalNetworks()
        self.accuracy = float("nan")

    def predictions(self) -> np.ndarray:
        """(E, W, Q) classes within the episode, as its head tells them one episode after the other."""
        found = []
        for support, labels, query, _, _ in self.loader:
            self.model.process_support_set(support, labels)
            # Its classes are numbered in the order of a set; ours as they were drawn.
            place = np.argsort(labels.reshape(WAYS, SHOTS)[:, 0].numpy())
            found.append(place[self.model(query).argmax(1).numpy()].reshape(WAYS, QUERIES))
        return np.array(found)

    def run(self) -> None:
        from easyfsl.utils import evaluate

        self.accuracy = evaluate(self.model, self.loader, device="cpu", use_tqdm=False)


if __name__ == "__main__":
    main()
