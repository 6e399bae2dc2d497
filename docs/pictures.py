"""Draws the pictures of the detector's page, coins.png and detection_table.png: `python docs/pictures.py`.

The coins are the photograph that scikit-image ships (Brooklyn Museum, no known copyright restrictions); the
bars are those of benchmarks/results/detection_table.json. Needs the extra `pretrained` and scikit-image.
"""

import argparse
import json
import tempfile
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import skimage
from PIL import Image

import fewshotjax as fs
from fewshotjax.detection.metrics import GroundTruth

HERE = Path(__file__).parent
ROWS = {  # of detection_table, from what is told least to what is told most
    "fine-tuned detector": "fine-tuned detector",
    "repmet": "RepMet",
    "metric baseline": "metric baseline",
    "external embedding of crops": "external classifier of crops",
    "external embedding of crops, DML": "external metric of crops",
    "class-agnostic proposals, prototypes": "class-agnostic regions, prototypes",
    "whole photograph, class mean": "told the photographs' rectangles",
}
EXAMPLES = [[22, 33, 66, 75], [81, 39, 120, 74], [131, 28, 179, 74], [192, 30, 240, 73], [255, 34, 297, 72]]
OTHERS = [
    *([25, 104, 67, 146], [84, 107, 122, 145], [134, 110, 174, 145], [185, 105, 227, 144]),
    *([245, 96, 296, 144], [317, 105, 356, 145], [25, 178, 63, 217], [80, 175, 124, 217]),
    *([135, 179, 174, 217], [189, 170, 237, 216], [251, 172, 297, 216], [315, 156, 380, 218]),
    *([18, 233, 75, 288], [92, 245, 136, 287], [144, 236, 201, 288], [220, 241, 269, 288]),
    *([276, 240, 326, 288], [336, 248, 381, 289]),
]


def coins(path: Path) -> None:
    """The upper row has five boxes, the lower rows are searched; what is wrong or missed is said."""
    whole = Image.open(Path(skimage.__file__).parent / "data" / "coins.png")
    with tempfile.TemporaryDirectory() as folder:
        whole.crop((0, 0, 302, 90)).save(Path(folder) / "upper.png")
        annotations = [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for number, (x1, y1, x2, y2) in enumerate(EXAMPLES)
        ]
        record = {
            "images": [{"id": 1, "file_name": "upper.png", "width": 302, "height": 90}],
            "categories": [{"id": 1, "name": "coin"}],
            "annotations": annotations,
        }
        (Path(folder) / "boxes.json").write_text(json.dumps(record))
        coin = fs.new_classes(jax.random.key(0), fs.detector(), Path(folder) / "boxes.json")
    found = fs.detect(coin, [whole.crop((0, 90, 384, 303))])
    boxes = np.array(OTHERS, float) - [0, 90, 0, 90]
    nothing = np.zeros(len(boxes), int)
    found.picture(0, GroundTruth(nothing, nothing, boxes)).save(path, optimize=True)


def bars(path: Path) -> None:
    """VOC AP of unseen classes in mosaics by method and number of shots, with intervals over trainings."""
    record = json.loads((HERE.parent / "benchmarks" / "results" / "detection_table.json").read_text())
    cells = record["table"]["unseen, mosaic2"]
    rows = [row for row in ROWS if all(row in cell for cell in cells.values())]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for i, (cell, shade) in enumerate(zip(cells, ("#56B4E9", "#0072B2", "#009E73"), strict=True)):
        figures = [cells[cell][row]["figures"]["voc_ap"] for row in rows]
        mean, low, high = (100 * np.array([one[part] for one in figures]) for part in ("mean", "low", "high"))
        places = np.arange(len(rows)) + 0.25 * (i - 1)
        axes.barh(places, mean, 0.22, xerr=(mean - low, high - mean), color=shade, label=cell)
    axes.set_yticks(range(len(rows)), [ROWS[row] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("VOC AP at IoU .5 of unseen classes, percent")
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


PICTURES = {"coins": coins, "detection_table": bars}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Draws the pictures of the detector's page beside this file."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    for name in parser.parse_args().names or PICTURES:
        PICTURES[name](HERE / f"{name}.png")
