"""Delta-encoder end to end: training, then 1,000 1-shot episodes, beside a straightforward PyTorch version.

The authors' configuration at 512 features, but for the learning rate: hidden 8,192, a code of 16, batches of
128, 6 epochs, 1,024 samples of each of 5 classes, a softmax layer trained by Adam for 25 epochs an episode.
The PyTorch version does what their code does, step by step: in an episode it encodes the pairs that it drew
and decodes them on the seed. It runs with the fastest of the settings tried (fused, foreach or plain Adam,
threads), of training and of episodes each, in turn with ours, on the same episodes. The figure is
"ratio_with_compilation": all that one waits for, once. "ratio_vs_torch" leaves our compilation out, as in a
second run of the same shapes. "torch_with_bank" is a better one: codes encoded once, before it is timed; of
some episodes. The rival is on the CPU: with an accelerator this does not run.

Features are random numbers with class means and shared directions of change, so that accuracies mean
something. Both train from their own start, which moves accuracies by more than the interval over episodes;
so the episodes of both are run with our trained weights, and "equal_within_interval" is about these: the mean
of the paired differences, and the draws of codes, orders and first weights are each one's own. What both
trainings come to stands beside it as their last losses, and as the rival's accuracy with its own weights on
some episodes. Memory is that of our process before PyTorch is imported.
"""

import itertools
import time
from typing import Any

import jax
import numpy as np

import fewshotjax as fs
from fewshotjax import delta as de
from fewshotjax.episode_task import episode_task

from .common import QUICK, finish, peak_gib, say

WIDTH, HIDDEN, CODE = (64, 256, 8) if QUICK else (512, 8_192, 16)
BASE, BASE_EACH, NOVEL, NOVEL_EACH = (20, 30, 10, 40) if QUICK else (100, 300, 50, 120)
EPOCHS, RATE = (10, 1e-2) if QUICK else (6, 1e-4)
EPISODES, BLOCKS, SAMPLES, QUERIES = (20, 2, 256, 15) if QUICK else (1_000, 5, 1_024, 15)
WITH_BANK = 10 if QUICK else 50
SHAPE = {"ways": 5, "shots": 1, "queries": QUERIES}
CLASSIFIER = de.ClassifierConfig()
CHUNK = 8


def examples(rng: np.random.Generator, directions: np.ndarray, classes: int, each: int) -> Any:
    """Class means; within a class, changes along directions that all share, and noise; as after a ReLU."""
    centres = rng.normal(size=(classes, 1, WIDTH))
    shared = rng.normal(size=(classes, each, len(directions))) @ directions
    x = np.maximum(centres + shared + 0.3 * rng.normal(size=(classes, each, WIDTH)), 0)
    return x.reshape(-1, WIDTH).astype(np.float32), np.repeat(np.arange(classes), each).astype(np.int32)


def main() -> None:
    if jax.default_backend() != "cpu":
        raise SystemExit("the PyTorch version is on the CPU: set JAX_PLATFORMS=cpu for both")
    rng = np.random.default_rng(0)
    directions = 0.3 * rng.normal(size=(8, WIDTH))
    base, novel = examples(rng, directions, BASE, BASE_EACH), examples(rng, directions, NOVEL, NOVEL_EACH)
    config = de.DeltaConfig(hidden=HIDDEN, code=CODE)
    training = de.DeltaTrainConfig(learning_rate=RATE, epochs=EPOCHS)
    task = episode_task(jax.random.key(1), *novel, episodes=EPISODES, **SHAPE)
    fit = de.EpisodeFit(SAMPLES, classifier=CLASSIFIER)
    blocks = [
        jax.tree.map(lambda leaf, b=b: np.asarray(leaf)[b::BLOCKS], task.episodes) for b in range(BLOCKS)
    ]

    losses: dict[str, float] = {}

    def ours_train() -> de.DeltaEncoder:
        found = de.train_delta(jax.random.key(0), *base, config, training)
        jax.block_until_ready(found.delta.params)
        losses["ours"] = found.history[-1].loss
        return found.delta

    def ours_block(delta: de.DeltaEncoder, block: int) -> np.ndarray:
        part = task._replace(episodes=blocks[block], key=jax.random.fold_in(task.key, block))
        return de.accuracies_by_epoch(part, de.delta_sampler(delta), fit, chunk=CHUNK)[:, -1]

    delta, first_training = timed(ours_train)
    say(f"ours: training {first_training:.1f} s with its compilation")
    _, first_block = timed(lambda: ours_block(delta, 0))
    memory = peak_gib()
    say(
        f"ours: {len(blocks[0].classes)} episodes {first_block:.1f} s with compilation; peak {memory:.2f} GiB"
    )

    rival = Rival(base, novel)
    say(f"PyTorch: {rival.tune(jax.tree.map(lambda leaf: leaf[:1], blocks[0]))}")
    seconds: dict[str, float] = {}
    trainings: dict[str, list[float]] = {"ours": [], "torch": []}
    rival.use("training")
    for _ in range(1 if QUICK else 2):
        delta, took = timed(ours_train)
        trainings["ours"].append(took)
        losses["torch"], took = timed(rival.train)
        trainings["torch"].append(took)
    for name, times in trainings.items():
        seconds[f"{name}, training"] = min(times)
    rival.use("episodes")
    some = jax.tree.map(lambda leaf: leaf[:WITH_BANK], blocks[0])
    own_weights = rival.episodes(some)
    rival.load(delta)
    compiling = first_training - seconds["ours, training"]
    accuracies: dict[str, list[np.ndarray]] = {"ours": [], "torch": []}
    for name in ("ours, episodes", "torch, episodes"):
        seconds[name] = 0.0
    for block in range(BLOCKS):
        for name, run in (
            ("ours", lambda b=block: ours_block(delta, b)),
            ("torch", lambda b=block: rival.episodes(blocks[b])),
        ):
            found, took = timed(run)
            accuracies[name].append(found)
            seconds[f"{name}, episodes"] += took
            if name == "ours" and block == 0:
                compiling += first_block - took
        say(", ".join(f"{name} {s:.1f} s" for name, s in seconds.items()))
    rival.encode_all()
    _, with_bank = timed(lambda: rival.episodes(some, bank=True))
    totals = {name: seconds[f"{name}, training"] + seconds[f"{name}, episodes"] for name in ("ours", "torch")}
    each = {name: np.concatenate(found) for name, found in accuracies.items()}
    means = {name: fs.results.mean_of(values) for name, values in each.items()}
    prototypes = fs.evaluate(task.key, fs.prototypes(), *novel, drawn=task.episodes)
    gap = fs.results.mean_of(each["ours"] - each["torch"])
    finish(
        "delta_speed",
        {
            "settings": {
                "features": WIDTH,
                "hidden": HIDDEN,
                "code": CODE,
                "base": [BASE, BASE_EACH],
                "novel": [NOVEL, NOVEL_EACH],
                "epochs": EPOCHS,
                "learning_rate": RATE,
                "episodes": EPISODES,
                "samples": SAMPLES,
                "classifier_epochs": CLASSIFIER.epochs,
                **SHAPE,
                "chunk": CHUNK,
                "torch": rival.told,
                "seed": 0,
            },
            "seconds": {name: round(s, 3) for name, s in seconds.items()},
            "seconds_total": totals,
            "seconds_first_calls": {"training": first_training, "a block of episodes": first_block},
            "seconds_compiling": compiling,
            "figure": "ratio_with_compilation",
            "ratio_with_compilation": totals["torch"] / (totals["ours"] + compiling),
            "ratio_vs_torch": totals["torch"] / totals["ours"],
            "ratio_training": seconds["torch, training"] / seconds["ours, training"],
            "ratio_episodes": seconds["torch, episodes"] / seconds["ours, episodes"],
            "seconds_per_episode": {
                "ours": seconds["ours, episodes"] / EPISODES,
                "torch": seconds["torch, episodes"] / EPISODES,
                "torch_with_bank": with_bank / len(some.classes),
            },
            "trainings_s": trainings,
            "last_losses": losses,
            "accuracy_with_our_weights": {name: list(one) for name, one in means.items()},
            "torch_with_its_own_weights": [*fs.results.mean_of(own_weights), len(some.classes)],
            "untrained_prototypes_on_the_same": list(prototypes.accuracy),
            "ours_minus_torch": list(gap),
            "equal_within_interval": bool(abs(gap.mean) <= gap.half),
            "peak_gib": round(memory, 3),
            "limit_gib": 4,
        },
    )


def timed(run: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


class Rival:
    """The same in PyTorch, as one would write it after the authors' code."""

    def __init__(self, base: Any, novel: Any):
        import torch

        self.torch, self.told = torch, {"version": torch.__version__}
        self.x, self.labels = torch.from_numpy(base[0]), base[1]
        self.novel = torch.from_numpy(novel[0])
        self.kind, self.bank = "plain", None

    def tune(self, episode: Any) -> dict[str, Any]:
        """The fastest kind of Adam and number of threads: of training by a few steps, of episodes by one."""
        import os

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        tried: dict[str, dict[Any, float]] = {"training": {}, "episodes": {}}
        for one in itertools.product(sorted({1, cores}), ("fused", "foreach", "plain")):
            self._set(*one)
            self._start()
            self._steps(1)
            tried["training"][one] = timed(lambda: self._steps(5))[1]
            self.encoder.eval(), self.decoder.eval()
            self.pairs = self._references()
            self.episodes(episode)
            tried["episodes"][one] = timed(lambda: self.episodes(episode))[1]
        for phase, seconds in tried.items():
            threads, kind = min(seconds, key=seconds.__getitem__)
            self.told[phase] = {"threads": threads, "adam": kind}
        return self.told

    def use(self, phase: str) -> None:
        """The settings that were fastest in it."""
        self._set(self.told[phase]["threads"], self.told[phase]["adam"])

    def _set(self, threads: int, kind: str) -> None:
        self.torch.set_num_threads(threads)
        self.kind = kind

    def _adam(self, parameters: Any, rate: float) -> Any:
        chosen = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}
        return self.torch.optim.Adam(parameters, rate, **chosen[self.kind])

    def train(self) -> float:
        """Epochs of new pairs, with dropout, the weighted loss and the rule for the rate: the last loss."""
        torch = self.torch
        self._start()
        self.encoder.train(), self.decoder.train()
        best = float("inf")
        for _ in range(EPOCHS):
            references, order = self._references(), torch.randperm(len(self.x))
            total = 0.0
            for rows in order.split(128):
                total += self._step(self.x[rows], self.x[references[rows]]).item() * len(rows)
            loss = total / len(self.x)
            if loss > best:
                self.adam.param_groups[0]["lr"] *= 0.9
            best = min(best, loss)
        self.encoder.eval(), self.decoder.eval()
        self.pairs = self._references()
        return loss

    def load(self, delta: de.DeltaEncoder) -> None:
        """Our trained weights."""
        torch = self.torch
        with torch.no_grad():
            for name, network in (("encoder", self.encoder), ("decoder", self.decoder)):
                for number, layer in enumerate((network[0], network[3])):
                    ours = delta.params[name][f"layer_{number}"]
                    layer.weight.copy_(torch.from_numpy(np.array(ours["kernel"]).T))
                    layer.bias.copy_(torch.from_numpy(np.array(ours["bias"])))

    def encode_all(self) -> None:
        """The codes of all pairs, once."""
        torch = self.torch
        with torch.inference_mode():
            self.bank = torch.cat([self._encoded(rows) for rows in torch.arange(len(self.x)).split(512)])

    def episodes(self, drawn: Any, bank: bool = False) -> np.ndarray:
        """Accuracy of each episode."""
        torch = self.torch
        found = []
        for support, query in zip(drawn.support, drawn.query, strict=True):
            seeds = self.novel[torch.tensor(support[:, 0]).long()]
            with torch.inference_mode():
                samples = []
                for seed in seeds:
                    rows = torch.randperm(len(self.x))[:SAMPLES]
                    z = self.bank[rows] if bank else self._encoded(rows)
                    samples.append(self.decoder(torch.cat([seed.expand(len(rows), -1), z], 1)))
                made = torch.cat([*samples, seeds])
            x = made.clone()  # out of inference mode
            y = torch.cat([torch.arange(5).repeat_interleave(len(samples[0])), torch.arange(5)])
            queries = self.novel[torch.tensor(query.reshape(-1)).long()]
            guessed = self._classified(x, y, queries).reshape(5, -1)
            found.append((guessed == torch.arange(5)[:, None]).float().mean().item())
        return np.array(found)

    def _encoded(self, rows: Any) -> Any:
        return self.encoder(self.torch.cat([self.x[rows], self.x[self.pairs[rows]]], 1))

    def _classified(self, x: Any, y: Any, queries: Any) -> Any:
        torch = self.torch
        layer = torch.nn.Linear(WIDTH, 5)
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        adam = self._adam(layer.parameters(), CLASSIFIER.learning_rate)
        best = float("inf")
        for _ in range(CLASSIFIER.epochs):
            total = 0.0
            for rows in torch.randperm(len(x)).split(CLASSIFIER.batch):
                loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
                total += loss.item() * len(rows)
            if total / len(x) > best:
                adam.param_groups[0]["lr"] *= CLASSIFIER.decay
            best = min(best, total / len(x))
        with torch.inference_mode():
            return layer(queries).argmax(1)

    def _start(self) -> None:
        torch = self.torch
        torch.manual_seed(0)

        def network(inputs: int, outputs: int) -> Any:
            layers = torch.nn.Sequential(
                torch.nn.Linear(inputs, HIDDEN),
                torch.nn.LeakyReLU(0.2),
                torch.nn.Dropout(0.5),
                torch.nn.Linear(HIDDEN, outputs),
            )
            for layer in (layers[0], layers[3]):
                torch.nn.init.normal_(layer.weight, std=0.01)
                torch.nn.init.zeros_(layer.bias)
            return layers

        self.encoder, self.decoder = network(2 * WIDTH, CODE), network(WIDTH + CODE, WIDTH)
        every = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.adam = self._adam(every, RATE)

    def _references(self) -> Any:
        found = np.empty(len(self.labels), np.int64)
        for label in range(BASE):
            own = np.flatnonzero(self.labels == label)
            found[own] = np.random.permutation(own)  # noqa: NPY002, as one would write it
        return self.torch.from_numpy(found)

    def _step(self, x: Any, y: Any) -> Any:
        torch = self.torch
        away = (x - self.decoder(torch.cat([y, self.encoder(torch.cat([x, y], 1))], 1))).abs()
        weights = away**2 / ((away**2).sum(1, keepdim=True) + 1e-7)
        loss = (weights * away).sum(1).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.detach()

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self._step(self.x[:128], self.x[128:256])


if __name__ == "__main__":
    main()
