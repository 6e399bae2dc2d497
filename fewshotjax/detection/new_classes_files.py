"""New classes in one .safetensors file: representatives, examples and settings, but not the detector."""

import os
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ..representatives import Representatives
from ..tensor_files import TensorFile
from .detector import Detector
from .finder import Finder, RegionFinder
from .methods.repmet import RepMetModel, repmet
from .new_classes import NewClasses, SupportView
from .photos import check_pixels
from .support import SupportConfig
from .tuning import DetectionTuning
from .windows import WindowFinder, WindowModel, Windows

FILE = TensorFile("new classes", "save_new_classes")
_WINDOW = ("windows", "support", "labels", "keep", "background", "there")


def save_new_classes(path: str | os.PathLike[str], found: NewClasses) -> None:
    """Writes the classes with the pictures of their examples; of the detector only what tells it from others,
    which `load_new_classes` checks.

    Raises:
        ValueError: a method other than RepMet's, which no file can bring back.
        OSError: the file cannot be written.
    """
    if not found.default:
        raise ValueError(
            "classes of a method of yours cannot be saved: make them anew from the support, or use RepMet's"
        )
    tensors: dict[str, np.ndarray] = {
        "embeddings": found.embeddings,
        "owner": found.owner,
        "boxes": found.support.boxes,
        "box_labels": found.support.labels,
        "regions": found.support.regions,
    }
    tensors |= {f"crop/{row}": crop for row, crop in enumerate(found.support.crops)}
    finder: Finder = found.finder
    told: dict[str, Any] = {"kind": finder.kind, "fingerprint": finder.fingerprint()}
    if isinstance(finder, RegionFinder):
        tensors |= {"modes": np.asarray(found.model.found.modes), "mask": np.asarray(found.model.found.mask)}
        tensors["missing"] = np.asarray(found.model.missing)
        tensors |= flax.traverse_util.flatten_dict({"own": found.model.own}, sep="/")
        told["keep_base"] = finder.support.keep_base
    else:
        tensors |= {f"window/{name}": np.asarray(getattr(found.model, name)) for name in _WINDOW}
    for name in ("classes", "category_ids", "notes", "digests"):
        told[name] = list(getattr(found, name))
    told |= {name: getattr(found, name) for name in ("ways", "pixels", "threshold")}
    told["files"] = list(found.support.files)
    FILE.write(path, tensors, told)


def load_new_classes(path: str | os.PathLike[str], detector: Detector | Windows) -> NewClasses:
    """The classes that `save_new_classes` wrote.

    Args:
        detector: what they were made with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged or of another version; another detector than they were made with.
    """
    told, tensors = FILE.read(path)
    with FILE.understood(path):
        return _rebuilt(told, tensors, detector)


def _rebuilt(
    told: dict[str, Any], tensors: dict[str, np.ndarray], detector: Detector | Windows
) -> NewClasses:
    pixels, classes = check_pixels(int(told["pixels"])), tuple(map(str, told["classes"]))
    kind = "windows" if isinstance(detector, Windows) else "detector"
    if told["kind"] != kind:
        was = "sliding windows" if told["kind"] == "windows" else "a trained detector"
        raise ValueError(f"was made with {was}: give that")
    finder: Finder
    model: Any
    if isinstance(detector, Windows):
        finder = WindowFinder(detector, pixels)
        model = WindowModel(**{name: tensors[f"window/{name}"] for name in _WINDOW})
    else:
        config = SupportConfig(keep_base=bool(told["keep_base"]))
        learned = {name: jnp.asarray(array) for name, array in tensors.items() if name.startswith("own/")}
        own = flax.traverse_util.unflatten_dict(learned, sep="/").get("own", {})
        # Nothing is learned any more: of the tuning it matters alone whether the box head is the model's own.
        tuning = DetectionTuning(box=True) if "box" in own else None
        finder = RegionFinder(detector, repmet(detector.net, config, tuning=tuning), config)
        found = Representatives(jnp.asarray(tensors["modes"]), jnp.asarray(tensors["mask"]))
        model = RepMetModel(own, found, jnp.asarray(tensors["missing"]))
        _check(found.modes.ndim == 3 and found.mask.shape == found.modes.shape[:2], "modes")
        _check(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found.modes, own))), "modes")
    given = finder.fingerprint()
    for field, value in told["fingerprint"].items():
        if given.get(field) != value:
            raise ValueError(
                f"was made with a detector on {told['fingerprint']['name']} whose {field} was "
                f"{_short(value)}, and this one's is {_short(given.get(field))}: give that detector, or make "
                "the classes anew"
            )
    ways, owner, boxes = int(told["ways"]), tensors["owner"], tensors["boxes"]
    labels, count = tensors["box_labels"], len(tensors["boxes"])
    _check(1 <= ways <= len(classes) == len(told["category_ids"]), "classes")
    _check(boxes.shape == (count, 4) and np.isfinite(boxes).all() and count > 0, "boxes")
    _check(labels.shape == (count,) and labels.min() >= 0 and labels.max() < ways, "labels")
    _check(len(told["files"]) == count and tensors["regions"].shape == (count,), "files")
    _check(
        tensors["embeddings"].shape[0] == len(owner) and np.isfinite(tensors["embeddings"]).all(),
        "embeddings",
    )
    _check(owner.size > 0 and owner.min() >= 0 and owner.max() < count, "owner")
    _check(0 <= float(told["threshold"]) <= 1, "threshold")
    crops = tuple(tensors[f"crop/{row}"] for row in range(count))
    _check(all(crop.dtype == np.uint8 and crop.ndim == 3 and crop.shape[2] == 3 for crop in crops), "crops")
    return NewClasses(
        classes,
        ways,
        tuple(map(int, told["category_ids"])),
        finder,
        model,
        tensors["embeddings"],
        owner,
        SupportView(boxes, labels, tuple(map(str, told["files"])), crops, tensors["regions"]),
        pixels,
        float(told["threshold"]),
        tuple(map(str, told["notes"])),
        tuple(map(str, told["digests"])),
        True,
    )


def _check(right: Any, what: str) -> None:
    if not right:
        raise ValueError(f"its {what} do not fit the rest: save it again")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
