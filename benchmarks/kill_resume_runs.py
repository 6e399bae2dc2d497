"""Small runs of all that goes on from a checkpoint, each a process: what benchmarks/kill_resume.py kills.

hwmodel has none: nothing there runs for long. Inputs are drawn. Checkpoints are written as often as may be,
and slowly, so that many kills meet one that is being written.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

SLOWER_S = 0.01  # that a write takes longer: half of what is killed is killed within one


def main() -> None:
    """Arguments: name, checkpoint, and the file that the digest of the result is written to."""
    name, checkpoint, out = sys.argv[1:]
    sync = os.fsync

    def slow(file: int) -> None:
        sync(file)
        time.sleep(SLOWER_S)

    os.fsync = slow
    from fewshotjax.training import loop

    loop.CHECKPOINT_S = 0.0
    found = RUNS[name](Path(checkpoint))
    Path(out).write_text(json.dumps({"digest": digest(found), "leaves": len(jax.tree.leaves(found))}))


def digest(tree: Any) -> str:
    """Of every number of a result, with shapes and types."""
    told = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        told.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return told.hexdigest()


def search(checkpoint: Path) -> Any:
    """nemojax.search."""
    import jax.numpy as jnp

    import nemojax as nemo
    from benchmarks.fuzz_nemojax import quantized

    net = quantized()
    weight = jnp.linspace(0.5, 1.5, len(net.workload.points))
    task = nemo.bits_task(net, lambda bits: jnp.sum(weight * 2.0 ** -bits.astype(jnp.float32)) / 3)
    config = nemo.NemoConfig(population=10, species=("floor",), archive_capacity=64)
    found = nemo.search(
        jax.random.key(0), task, budget=150, config=config, warm_start=None, checkpoint=checkpoint
    )
    return found.bits, found.costs, found.front.bits, found.front.costs, dict(found.history)


def _case() -> Any:
    import hwmodel as hw
    from benchmarks.fuzz_hwmodel import small_chip

    return hw.random_workload(1, 8, weight_elems=(1, 2000), output_elems=(1, 1000)), small_chip()


def _egrl(chromosomes: int = 4, **fields: Any) -> Any:
    from egrljax import EGRLConfig, LearnerConfig, PolicyConfig

    policy = PolicyConfig(hidden=4, heads=1, depth=1, decisions=2, choices=2)
    learner = LearnerConfig(critic_steps=1, actor_steps=1, batch=2, samples=2)
    return EGRLConfig(
        policies=4,
        chromosomes=chromosomes,
        policy_elites=1,
        chromosome_elites=min(1, chromosomes),
        policy=policy,
        learner=learner,
        **fields,
    )


def place(checkpoint: Path) -> Any:
    """egrljax.place by EGRL."""
    import egrljax as egrl

    config = _egrl(budget=60)
    found = egrl.place(
        jax.random.key(0), *_case(), engine="egrl", config=config, every=1, checkpoint=checkpoint
    )
    course = found.course
    return found.placement, found.latency_s, found.evaluations, course and (course.evaluations, course.best_s)


def policy(checkpoint: Path) -> Any:
    """egrljax.train_policy."""
    import egrljax as egrl

    found = egrl.train_policy(
        jax.random.key(0), [_case()], config=_egrl(0, budget=60), every=1, checkpoint=checkpoint
    )
    return found.vector


def _rows(classes: int = 3, each: int = 12, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    return (rng.normal(size=(len(labels), width)) + labels[:, None]).astype(np.float32), labels


def head(checkpoint: Path) -> Any:
    """fewshotjax.train_head."""
    import fewshotjax as fs

    objective, config = fs.softmax_objective(), fs.TrainConfig(epochs=30, batch=6)
    found = fs.train_head(jax.random.key(0), *_rows(), objective, config, every=2, checkpoint=checkpoint)
    return found.head, [(e.loss, e.error) for e in found.history]


def backbone(checkpoint: Path) -> Any:
    """fewshotjax.train."""
    import fewshotjax as fs

    net = fs.backbone("conv4", key=jax.random.key(1), pixels=16, hidden=2)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 16, 16, 3)).astype(np.uint8)
    images = fs.LabelledImages(pixels, np.repeat(np.arange(3, dtype=np.int32), 8), ("a", "b", "c"))
    config = fs.TrainConfig(epochs=8, batch=6, learning_rate=0.01)
    found = fs.train(
        jax.random.key(0), net, images, fs.softmax_objective(), config, every=1, checkpoint=checkpoint
    )
    assert found.backbone is not None
    return found.backbone.variables, found.head, [(e.loss, e.error) for e in found.history]


def delta(checkpoint: Path) -> Any:
    """fewshotjax.train_delta."""
    import fewshotjax as fs

    config, train = (
        fs.DeltaConfig(hidden=8, code=2),
        fs.DeltaTrainConfig(batch=6, epochs=12, learning_rate=1e-3),
    )
    found = fs.train_delta(jax.random.key(0), *_rows(), config, train, every=1, checkpoint=checkpoint)
    return found.delta.params, found.delta.bank


def detector(checkpoint: Path) -> Any:
    """fewshotjax.detection.train_detector."""
    from benchmarks.fuzz_fewshotjax import small_detector
    from fewshotjax.detection import DetectorTrainConfig, fixed, train_detector
    from fewshotjax.detection.data import boxed

    images = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    boxes = [np.float32([[4, 4, 30, 30]]) + i for i in range(4)]
    source = fixed(boxed(images, boxes, [[0], [1], [0], [1]], ("cat", "dog")))
    config = DetectorTrainConfig(epochs=4, batch=2, steps_per_epoch=3)
    found = train_detector(
        jax.random.key(0), small_detector(), source, config, every=1, checkpoint=checkpoint
    )
    return found.detector.params


RUNS: dict[str, Callable[[Path], Any]] = {
    "nemojax.search": search,
    "egrljax.place": place,
    "egrljax.train_policy": policy,
    "fewshotjax.train_head": head,
    "fewshotjax.train_delta": delta,
    "fewshotjax.train": backbone,
    "fewshotjax.train_detector": detector,
}
