"""Photographs of coloured squares for tests of `new_classes` and `detect`, whose features are colours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fewshotjax.backbones import Preprocess
from fewshotjax.detection.anchors import AnchorConfig
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data import boxed
from fewshotjax.detection.detector import init_detector
from fewshotjax.detection.pyramids import pyramid_from_function
from fewshotjax.detection.windows import WindowConfig, Windows
from fewshotjax.repmet_model import RepMetConfig

RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 200, 30)
STRIDES = (4, 8)
P = 64
KEY = jax.random.key(0)
TRACES = []


def colours(params, x):
    """Means of the colours in cells of 4 and 8 pixels."""
    TRACES.append(x.shape)
    b, h, w, c = x.shape
    return tuple(
        x.reshape(b, h // s, s, w // s, s, c).mean(axis=(2, 4)) * params[None, None, None] for s in STRIDES
    )


def pyramid(shade=1.0):
    return pyramid_from_function(
        colours, Preprocess(P), jnp.full(3, shade, jnp.float32), strides=STRIDES, name="colours"
    )


def scene(height, width, *squares, seed=0):
    """Dark noise with squares (colour, x, y, side), light in the middle; and their boxes."""
    rng = np.random.default_rng(seed)
    image = rng.integers(50, 80, (height, width, 3)).astype(np.uint8)
    for shade, x, y, side in squares:
        image[y : y + side, x : x + side] = shade
        edge = side // 4
        image[y + edge : y + side - edge, x + edge : x + side - edge] = 255
    return image, np.array([[x, y, x + side, y + side] for _, x, y, side in squares], np.float32)


def support():
    """Three photographs of two classes at working size."""
    scenes = [
        scene(64, 64, (RED, 8, 8, 16), (BLUE, 40, 36, 16), seed=1),
        scene(64, 64, (RED, 36, 20, 16), (BLUE, 4, 40, 16), seed=2),
        scene(64, 48, (BLUE, 20, 12, 16), seed=3),
    ]
    labels = [[0, 1], [0, 1], [1]]
    return boxed(
        [image for image, _ in scenes], [box for _, box in scenes], labels, ("red", "blue"), ("a", "b", "c")
    )


def iou(a, b):
    """(A, B) of half-open boxes."""
    corners = [np.maximum(a[:, None, i], b[None, :, i]) for i in (0, 1)]
    ends = [np.minimum(a[:, None, i], b[None, :, i]) for i in (2, 3)]
    both = (ends[0] - corners[0]).clip(0) * (ends[1] - corners[1]).clip(0)
    areas = [(one[:, 2] - one[:, 0]) * (one[:, 3] - one[:, 1]) for one in (a, b)]
    return both / (areas[0][:, None] + areas[1][None] - both)


WINDOWS = Windows(
    pyramid(), WindowConfig(scales=(1.0,), step=0.15, bins=((0, 3), (1, 2)), background=64, per_image=10)
)
CONFIG = DetectorConfig(
    channels=4,
    anchors=AnchorConfig(strides=STRIDES),
    before_nms=40,
    proposals=16,
    roi_size=2,
    hidden=(8,),
    head=RepMetConfig(modes=2, embedding=6, posterior="softmax", background=True),
    per_image=12,
)


def random_detector():
    """With random weights, for what does not depend on them."""
    made = init_detector(KEY, pyramid(), CONFIG, ("cat", "blue"))
    # Codes of size, so that boxes move.
    params = {**made.params, "box": jax.tree.map(lambda leaf: leaf * 100, made.params["box"])}
    return dataclasses.replace(made, params=params)
