"""What there is to find in the query images of some episodes: the true boxes of the episodes' classes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .data.boxed import BoxedImages
from .episodes import DetectionEpisodes
from .queries import QueryImages

NOTHING, OBJECT, LEFT_OUT = 0, 1, 2  # kinds of boxes


class QueryTruth(NamedTuple):
    """Of n episodes with Q query images of up to G boxes; where `kind` is NOTHING the rest means nothing."""

    boxes: Float[np.ndarray, "n Q G 4"]
    labels: Int[np.ndarray, "n Q G"]  # classes of the photographs; of merged ones the first of the parts
    kind: Int[np.ndarray, "n Q G"]  # int8: OBJECT, LEFT_OUT of crowds and difficult ones, or NOTHING
    difficult: Bool[np.ndarray, "n Q G"]
    crowd: Bool[np.ndarray, "n Q G"]
    frames: Float[np.ndarray, "n Q G 4"]  # what the photograph of each fills


def query_truth(
    drawn: DetectionEpisodes,
    numbers: Int[np.ndarray, " n"],
    photographs: BoxedImages,
    given: QueryImages | None,
) -> QueryTruth:
    """Of the episodes `numbers`, in the images `given`, or in their query photographs."""
    wanted = drawn.asked[numbers]
    if given is not None:
        way, boxes, frames = given.labels, given.boxes, given.frames
        there = given.shown & wanted[..., None]
        difficult = crowd = np.zeros(there.shape, bool)
    else:
        rows = drawn.queries[numbers]
        boxes, found = photographs.boxes[rows], photographs.labels[rows]
        of_way = (found[..., None, None] == drawn.members[numbers][:, None, None]).any(
            axis=-1
        )  # (n, Q, G, W)
        there = of_way.any(axis=-1) & photographs.shown[rows] & wanted[..., None]
        way = np.argmax(of_way, axis=-1)
        difficult, crowd = (
            np.asarray(one)[rows] & there for one in (photographs.difficult, photographs.crowd)
        )
        height, width = photographs.sizes[0].tolist()
        frames = np.broadcast_to(np.array([0, 0, width, height], np.float32), boxes.shape)
    labels = drawn.classes[numbers[:, None, None], np.where(there, way, 0)]
    kind = np.where(there, np.where(difficult | crowd, LEFT_OUT, OBJECT), NOTHING).astype(np.int8)
    return QueryTruth(boxes, labels, kind, difficult, crowd, frames)
