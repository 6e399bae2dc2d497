"""Images a second of RepMet's detector at 64 pixels: regions, scores, suppression; best of some rounds."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewshotjax import detection as de
from fewshotjax.detection import methods
from fewshotjax.repmet_model import representatives

from .common import QUICK
from .detection_cells import WAYS, photographs

IMAGES, ROUNDS = (16, 1) if QUICK else (512, 5)


def images_per_second(detector: de.Detector) -> dict[str, Any]:
    """Of `find_regions`, and of that with detection of so many classes as an episode has."""
    pictures = photographs("novel_test").images[:IMAGES]
    assert isinstance(pictures, np.ndarray)
    net, method = detector.net, methods.trained(detector.net)
    whole = representatives(detector.params["repmet"], net.config.head)
    model = jax.tree.map(lambda leaf: leaf[:WAYS], whole)
    size = pictures.shape[1], pictures.shape[2]

    @jax.jit
    def detect(params: Any, regions: de.Regions) -> Any:
        def one(each: de.Regions) -> de.Found:
            return de.score_regions(method, params, model, net, each, size)

        return jax.lax.map(one, regions, batch_size=16)

    seconds: dict[str, list[float]] = {"regions": [], "detections": []}
    for round_ in range(ROUNDS + 1):
        start = time.perf_counter()
        found = de.find_regions(detector, pictures)
        middle = time.perf_counter()
        jax.block_until_ready(detect(detector.params, jax.tree.map(jnp.asarray, found)))
        end = time.perf_counter()
        if round_:  # the first compiles
            seconds["regions"].append(middle - start)
            seconds["detections"].append(end - start)
    return {f"{name}_per_s": len(pictures) / min(each) for name, each in seconds.items()}
