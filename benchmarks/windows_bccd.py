"""New classes by sliding windows, without a trained detector, on blood cells: pretrained features and raw
colours.

BCCD's test part (72 photographs; 12 with QUICK=1) is searched for red cells, white cells and platelets. The
support of a draw are five photographs of the training part with all their boxes, by NumPy's
`default_rng(draw)`, drawn again where a class is lacking. `new_classes` and `detect(threshold=0)` have
default settings, some of which were chosen on the validation part. Raw colours (means of pixels in the place
of the network's maps) say what the pretrained features bring. Intervals are Student's t over five draws (one
with QUICK=1). Needs FRUGALJAX_DATA and the extra `pretrained`.
"""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fewshotjax as few
from fewshotjax.backbones import Preprocess
from fewshotjax.detection import pyramid_from_function
from fewshotjax.detection.data import BoxedImages, bccd
from fewshotjax.detection.metrics import coco_ap, voc_ap
from fewshotjax.detection.windows import WindowConfig, Windows

from .common import QUICK, finish, interval, say

DRAWS, PHOTOGRAPHS, SHOWN = (1, 12, 5) if QUICK else (5, None, 5)
STRIDES = (4, 8, 16, 32)


def colours(_: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    """Means of the pixels of each cell."""
    b, h, w, c = images.shape
    return tuple(images.reshape(b, h // s, s, w // s, s, c).mean(axis=(2, 4)) for s in STRIDES)


def support(photographs: BoxedImages, draw: int) -> BoxedImages:
    rng = np.random.default_rng(draw)
    while True:
        found = photographs.take(rng.choice(len(photographs), SHOWN, replace=False))
        if (found.counts() > 0).all():
            return found


def measured(finder: Any, shown: BoxedImages, searched: BoxedImages) -> dict[str, Any]:
    start = time.perf_counter()
    classes = few.new_classes(jax.random.key(0), finder, shown)
    found = few.detect(classes, searched, threshold=0.0)
    seconds = time.perf_counter() - start
    truth = searched.truth()
    voc, coco = voc_ap(found.detections, truth), coco_ap(found.detections, truth)
    return {
        "voc_map_50": voc.mean_ap,
        **{f"voc_ap_50 {name}": voc.per_class.get(i) for i, name in enumerate(searched.classes)},
        "coco_ap": coco["AP"],
        "coco_ap_75": coco["AP75"],
        "boxes_shown": shown.counts().tolist(),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    root = os.environ["FRUGALJAX_DATA"]
    training, searched = bccd(root, "train"), bccd(root, "test")
    searched = searched.take(range(len(searched))[:PHOTOGRAPHS])
    raw = pyramid_from_function(colours, Preprocess(224), jnp.ones(3), strides=STRIDES, name="colours")
    finders = {"pretrained features": few.detector(), "raw colours": Windows(raw, WindowConfig())}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in finders}
    for draw in range(DRAWS):
        shown = support(training, draw)
        for name, finder in finders.items():
            rows[name].append(measured(finder, shown, searched))
            say(f"draw {draw}, {name}: VOC mAP {rows[name][-1]['voc_map_50']:.3f}")
    figures = [key for key in rows["raw colours"][0] if key.startswith(("voc", "coco"))]
    means = {
        name: {key: interval([one[key] for one in each]) for key in figures} if DRAWS > 1 else each[0]
        for name, each in rows.items()
    }
    settings = {"draws": DRAWS, "photographs": len(searched), "shown": SHOWN, "key": 0}
    finish("windows_bccd", {"settings": settings, "means": means, "draws": rows})


if __name__ == "__main__":
    main()
