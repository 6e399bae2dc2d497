"""What each page needs before its first line: files, names that its snippets take for granted, stand-ins.

Every function is called in an empty folder and gives names of the page's namespace. Stand-ins are described
where they are defined, in networks.py and pictures.py.
"""

import dataclasses
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import egrljax as egrl
import fewshotjax as fs
import nemojax as nemo
from fewshotjax.delta import EpisodeFit
from nemojax.setup_run import RunSettings, prepare

from . import networks, pictures
from .networks import KEY

DIGITS = tuple("0123456789")
WNIDS = tuple(f"n{i:08}" for i in range(networks.CLASSES))


def readme(patch):
    networks.small_networks(patch)
    pictures.small_plugins(patch)
    networks.chip_files("my_chip.toml")
    networks.onnx_files("a.onnx", "b.onnx")
    patch.setattr("egrljax.train.shared_config", networks.small_shared)
    pictures.class_folders("support")
    pictures.loose_pictures("photos")
    pictures.coco_boxes("boxes.json")
    pictures.class_folders("FOLDER", DIGITS, each=2)
    cifar_and_imagenet("CIFAR", "DIR")
    pictures.class_folders("pictures", DIGITS[:6], each=20)
    np.save("images.npy", pictures.pictures_array(14))
    return {**networks.own_model(), "small": networks.small_search()}  # a reader has a model, not the latter


def cifar_and_imagenet(cifar: str, imagenet: str) -> None:
    """Ten classes of six and two pictures; two of each wnid, as many as the small network has classes."""
    pictures.class_folders(f"{cifar}/train", DIGITS, each=6)
    pictures.class_folders(f"{cifar}/test", DIGITS, each=2)
    pictures.class_folders(f"{imagenet}/val", WNIDS, each=2)


def nemo_page(patch):
    networks.small_networks(patch)
    config = networks.small_search(species=("continuous", "gcn"), graph=nemo.Graph(hidden=8, heads=2))
    images = pictures.pictures_array(4, side=16)
    other = nemo.quantize(networks.small_network(), images)
    space = nemo.search_space(other, bits=(4, 8))  # as the page's pairs leave them
    return {
        "key": KEY,
        "config": config,
        "other": nemo.fidelity(other, images, space=space),
        "my_costs": lambda bits: jnp.stack([bits.mean(axis=1), (8.0 - bits).mean(axis=1)], axis=1),
    }


def cosearch(patch):
    images = pictures.pictures_array(6, side=16)
    return {
        "net": nemo.quantize(networks.small_network(), images),
        "images": images,
        "key": KEY,
        "small": networks.small_search(),
        "error": lambda features, episodes: jnp.mean((features - episodes) ** 2),
        "episodes": jnp.zeros((6, 8)),
        "error_of_bits": lambda bits: jnp.mean(1.0 / bits),
    }


def deploy(patch):
    networks.small_networks(patch)
    cifar_and_imagenet("CIFAR", "DIR")
    few = {"calibration": 2, "search": 2, "report": 2}
    run = RunSettings(resolution=16, warm_start="none", species=("continuous",), **few)
    searched = prepare(run).task
    bits = np.full(searched.space.size, 6)
    nemo.save_bits(
        "knee.json", nemo.Configuration(bits, searched.space.names, {"kl": 0.1}, {}, {"run": run.as_dict()})
    )
    own = networks.own_model()
    calibration = pictures.pictures_array(8)
    quantized = nemo.quantize(nemo.quantizable(own["model"], own["variables"]), calibration)
    labels = np.arange(8, dtype=np.int32) % 5
    task = nemo.classification(quantized, calibration, labels, top_k=1)
    rows = np.stack([task.space.uniform(b) for b in (4, 6, 8)])
    front = nemo.Front.of(rows, nemo.Evaluator(task)(rows), task.objectives, task.space.names)
    dense = nnx.Sequential(lambda x: x.reshape(len(x), -1), nnx.Linear(192, 5, rngs=nnx.Rngs(0)))
    return {
        "linen_module": own["model"],
        "variables": own["variables"],
        "nnx_module": dense,
        "apply": own["model"].apply,
        "params": own["variables"],
        "calibration": calibration,
        "key": KEY,
        "best": front.configuration(len(front) - 1),
        "inputs": calibration,
        "labels": labels,
        "found": Found(front),
        "rows": [0],
        "task": task,
        "unseen": pictures.pictures_array(8, seed=2),
        "quick": nemo.QATConfig(steps=2, chunk=2, batch=4),
    }


@dataclasses.dataclass
class Found:
    """As much of `nemo.search`'s outcome as the page looks at."""

    front: nemo.Front


def egrl_page(patch):
    networks.chip_files("mine.toml")
    networks.onnx_files("a.onnx", "b.onnx")
    patch.setattr("egrljax.train.shared_config", networks.small_shared)
    return {
        "work": networks.small_work(), "chip": networks.small_chip(), "run_and_time": networks.run_and_time,
        "np": np, "jnp": jnp, "dataclasses": dataclasses, "key": KEY,
        "small": networks.small_egrl(),
    }  # fmt: skip


def hwmodel_page(patch):
    networks.onnx_files("net.onnx")
    networks.chip_files("my_chip.toml")
    own = networks.own_model()
    return {
        "model": own["model"],
        "params": own["variables"],
        "image": jnp.asarray(pictures.pictures_array(1)),
    }


def fewshot(patch):
    pictures.small_plugins(patch)
    pictures.class_folders("support")
    pictures.loose_pictures("photos")
    images = pictures.small_tiny_imagenet(patch)
    net = fs.backbone("conv4", key=KEY, pixels=pictures.TINY)
    fs.save_backbone("mine.safetensors", net)
    return {"key": KEY, "labels": images.labels}


def detection(patch):
    pictures.small_plugins(patch)
    pictures.loose_pictures("photos")
    pictures.coco_boxes("boxes.json")
    pictures.coco_boxes("many.json", "pictures")


def delta(patch):
    pictures.tables()
    features, labels = pictures.labelled_features()
    other = pictures.labelled_features(classes=5, seed=1)
    return {
        "features": features, "labels": labels, "seeds": features[:3], "labels_of_seeds": labels[:3],
        "queries": features, "key": KEY, "base": (features, labels), "validation": other,
        "test": pictures.labelled_features(classes=5, seed=2),
        "training": fs.DeltaTrainConfig(1e-3, epochs=2),
        "few": EpisodeFit(samples=8),
    }  # fmt: skip


def fewshot_tutorial(patch):
    pictures.small_plugins(patch)
    pictures.class_folders("support")
    pictures.loose_pictures("photos")
    return {}


def nemo_tutorial(patch):
    networks.small_networks(patch)
    return {}


def scale(patch):
    """One process, which is of one of `jax.distributed`; test_hosts.py has several."""
    patch.setattr(jax.distributed, "initialize", lambda *arguments: None)
    patch.setattr(jax.distributed, "is_initialized", lambda: True)
    images = pictures.pictures_array(8, networks.SIDE)
    task = nemo.fidelity(nemo.quantize(networks.small_network(), images[:4]), images[4:])
    features, labels = pictures.labelled_features()
    return {"task": task, "features": features, "labels": labels, "small": networks.small_search()}


def howto(patch):
    pictures.small_plugins(patch)
    pictures.class_folders("support")
    pictures.loose_pictures("photos")
    pictures.coco_boxes("boxes.json")
    networks.chip_files("my_chip.toml")
    search_folder("run")
    own = networks.own_model()
    features, feature_labels = pictures.labelled_features()
    return {
        "net": nemo.quantizable(own["model"], own["variables"]),
        "calibration": pictures.pictures_array(8),
        "images": pictures.pictures_array(8, seed=1),
        "labels": np.arange(8, dtype=np.int32) % 5,
        "key": KEY,
        "small": networks.small_search(),
        "features": features,
        "feature_labels": feature_labels,
    }


def search_folder(place: str) -> None:
    """As much of what `nemojax search` leaves as `nemojax show` reads."""
    Path(place).mkdir()
    names = ("stem.weight", "head.weight")
    bits = np.array([[2, 2], [4, 4], [8, 8]], np.int32)
    costs = np.array([[0.9, 0.0625], [0.3, 0.125], [0.1, 0.25]])
    nemo.Front.of(bits, costs, ("error", "model_ratio"), names).to_json(Path(place, "front.json"))


def report(patch):
    networks.small_networks(patch)
    net = nemo.quantize(networks.small_network(), pictures.pictures_array(4, side=16))
    rows = np.array([[bits] * len(net.workload.points) for bits in (4, 8)], np.int32)
    task = nemo.fidelity(net, pictures.pictures_array(4, side=16), costs=nemo.costs_by_name(net))
    figure = plt.figure()
    picture = io.BytesIO()
    figure.savefig(picture)
    chip = networks.small_chip()
    latency = nemo.latency(net, chip)
    costs = [
        [*map(float, row), float(latency(bits))]
        for row, bits in zip(nemo.Evaluator(task)(rows), rows, strict=True)
    ]
    return {
        "net": net,
        "images": pictures.pictures_array(4, side=16),
        "chip": chip,
        "small_chip": chip,
        "large_chip": networks.small_chip("large", 4),
        "levels_of": lambda front: np.zeros((len(front), len(net.workload.operations), 2), np.int32),
        "key": KEY,
        "small": networks.small_search(),
        "best": nemo.Configuration(rows[1], net.workload.point_names, {}, index=0),
        "bits": rows,
        "costs": np.array(costs),
        "figure": figure,
        "png_bytes": picture.getvalue(),
        "egrl": egrl,
    }
