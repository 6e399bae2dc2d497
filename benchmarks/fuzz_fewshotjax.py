"""Readers of fewshotjax, with a few valid files for each."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_hwmodel import outcome, written
from benchmarks.fuzz_nemojax import pictures_of_all_kinds
from benchmarks.fuzz_target import Made, Seed, archives, png, reader, zipped


@reader("fewshotjax.load_backbone", "fewshotjax.backbone")
def backbones(folder: Path) -> Made:
    """A backbone's file."""
    import jax

    from fewshotjax import backbone, load_backbone, save_backbone

    net = backbone("conv4", key=jax.random.key(0), pixels=16, hidden=2)
    return [written(folder, ".safetensors", lambda p: save_backbone(p, net))], load_backbone


@reader("fewshotjax.load_head")
def heads(folder: Path) -> Made:
    """A trained head."""
    import jax

    from fewshotjax import load_head, save_head, softmax_objective

    objective = softmax_objective()
    head = objective.init(jax.random.key(0), 5, 3)
    return [written(folder, ".safetensors", lambda p: save_head(p, head))], lambda path: load_head(
        path, objective, 5, 3
    )


@reader("fewshotjax.load_classifier")
def classifiers(folder: Path) -> Made:
    """Classifiers of features, by RepMet and by another method."""
    from fewshotjax import fit_features, load_classifier, save_classifier
    from fewshotjax.data import LabelledFeatures

    rng = np.random.default_rng(0)
    rows = LabelledFeatures(
        rng.normal(size=(6, 4)).astype(np.float32), np.repeat(np.arange(2, dtype=np.int32), 3), ("a", "b")
    )
    seeds = [
        written(folder, ".safetensors", lambda p, m=method: save_classifier(p, fit_features(rows, method=m)))
        for method in (None, "prototypes")
    ]
    return seeds, load_classifier


@reader("fewshotjax.load_delta")
def deltas(folder: Path) -> Made:
    """A Delta-encoder."""
    import jax

    from fewshotjax import DeltaConfig, DeltaEncoder, load_delta, save_delta
    from fewshotjax.delta import Scaling, init_delta

    config = DeltaConfig(hidden=4, code=2)
    made = DeltaEncoder(
        config,
        init_delta(jax.random.key(0), config, 3),
        np.zeros((5, 2), np.float32),
        3,
        Scaling(np.zeros(3, np.float32), np.ones(3, np.float32), config.scaling),
        np.zeros(5, np.int32),
    )
    return [written(folder, ".safetensors", lambda p: save_delta(p, made))], load_delta


@reader("fewshotjax.delta.load_choice")
def choices(folder: Path) -> Made:
    """What validation chose."""
    from fewshotjax.delta import load_choice

    told = {
        "schema": "frugaljax.fewshot.delta_choice/1",
        "name": "last",
        "digest": "ab12",
        "rows": "000000000000000a 000000000000000b",
        "accuracies": {"last": 0.5, "first": 0.4},
        "settings": {"fit": {"samples": 4}, "codes": "pairs", "ways": 5},
    }
    return [Seed(".json", json.dumps(told).encode())], load_choice


@reader("fewshotjax.load_episodes")
def episodes(folder: Path) -> Made:
    """Lists of episodes."""
    from fewshotjax import Episode, load_episodes, save_episodes

    classes = np.array([[0, 1], [1, 2]], np.int32)
    support = np.array([[[0], [1]], [[2], [3]]], np.int32)
    query = support + 10
    made = Episode(classes, support, np.ones_like(support, bool), query)
    return [written(folder, ".json", lambda p: save_episodes(p, made))], load_episodes


@reader("fewshotjax.files.load_state", "fewshotjax.training.loop.Checkpoint.read")
def training_states(folder: Path) -> Made:
    """Checkpoints of trainings."""
    from fewshotjax.files import load_state, save_state

    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": {"b": np.arange(3), "c": np.float32(1)}}
    settings = {"seed": 1, "sizes": [1, 2], "name": "x"}
    seed = written(folder, ".state", lambda p: save_state(p, state, settings))
    return [seed], lambda path: load_state(path, state, settings)


PICTURES = {"a/1.png": png(6, 6), "a/2.png": png(6, 6), "b/3.png": png(6, 6, (0, 0, 0))}


@reader("fewshotjax.folder", "fewshotjax.pictures", "fewshotjax.detection.photos.photos")
def picture_places(folder: Path) -> Made:
    """Folders and archives of pictures, with classes and without."""
    from fewshotjax import folder as by_class, pictures
    from fewshotjax.detection.photos import photos

    def read(path: Path) -> None:
        first = outcome(lambda: by_class(path, 8, threads=1))
        second = outcome(lambda: pictures(path, threads=1))
        third = outcome(lambda: photos(path).read(0))
        if first and second and third:
            raise first

    return archives(PICTURES), read


@reader("fewshotjax.data.decode")
def single_pictures_decoded(folder: Path) -> Made:
    """One picture in each format, alone and by path."""
    from fewshotjax import pictures
    from fewshotjax.data.decode import decode

    def read(path: Path) -> None:
        decode(path.read_bytes(), 1)
        pictures(path, 8)

    return pictures_of_all_kinds(), read


@reader("fewshotjax.csv_table", "fewshotjax.feature_table", "fewshotjax.cli_features.read_features")
def tables(folder: Path) -> Made:
    """Labels and features as CSV, features as npz."""
    from fewshotjax import csv_table
    from fewshotjax.cli_features import read_features

    for name, data in PICTURES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    out, named = io.BytesIO(), io.BytesIO()
    np.savez(
        out, features=np.ones((4, 3), np.float32), labels=np.array([0, 1, 1, 0]), classes=np.array(["a", "b"])
    )
    np.savez(named, features=np.ones((2, 3)), labels=np.array(["x", "y"]))
    files = b"file,label,split\na/1.png,cat,train\nb/3.png,dog,train\na/2.png,cat,test\n"
    numbers = b"label,f0,f1\na,1.5,2\nb,-1,3e-3\n"

    def read(path: Path) -> None:
        if path.suffix == ".csv" and b"file" in path.read_bytes()[:200]:
            csv_table(path, threads=1)
        else:
            read_features(path, "--features")

    seeds = [
        Seed(".csv", files),
        Seed(".csv", numbers),
        Seed(".npz", out.getvalue()),
        Seed(".npz", named.getvalue()),
    ]
    return seeds, read


@reader(
    "fewshotjax.tiny_imagenet", "fewshotjax.data.tiny_imagenet_boxes", "fewshotjax.omniglot",
    "fewshotjax.cifar10",
    "fewshotjax.detection.data.tiny_imagenet_boxed",
)  # fmt: skip
def published_sets(folder: Path) -> Made:
    """The archives of published sets, where their readers look for them."""
    from fewshotjax import cifar10, omniglot, tiny_imagenet
    from fewshotjax.data import tiny_imagenet_boxes

    tiny = folder / "tiny_imagenet"
    tiny.mkdir()
    classes = b"split,wnid,name\nval_novel,n01443537,goldfish\nval_novel,n01443538,cat\n"
    (tiny / "classes.csv").write_bytes(classes)
    boxes = b"file,wnid,xmin,ymin,xmax,ymax\n"
    boxes += b"n01443537/1.png,n01443537,0,0,9,9\nn01443538/2.png,n01443538,1,1,63,63\n"
    small = {"n01443537/1.png": png(64, 64), "n01443538/2.png": png(64, 64), "boxes.csv": boxes}
    drawings = {
        f"images_background/{a}/character01/{i}.png": png(105, 105)
        for i, a in enumerate(("Korean", "Tagalog"))
    }
    (folder / "omniglot").mkdir()
    (folder / "omniglot" / "images_background_small2.zip").write_bytes(zipped(drawings))
    cifar = {f"{part}/{name}/1.png": png(32, 32) for part in ("train", "test") for name in "ab"}

    def read(path: Path) -> None:
        data = path.read_bytes()
        if path.suffix == ".csv":
            (tiny / "classes.csv").write_bytes(data)
            (tiny / "novel_val.zip").write_bytes(zipped(small))
            tiny_imagenet(folder, "novel_val", threads=1)
        elif path.suffix == ".tar":
            (folder / "cifar10.tar.xz").write_bytes(data)
            cifar10(folder, "test", threads=1)
        elif b"images_background" in data:
            (folder / "omniglot" / "images_background_small1.zip").write_bytes(data)
            omniglot(folder, "test", 8, threads=1)
        else:
            (tiny / "classes.csv").write_bytes(classes)
            (tiny / "novel_val.zip").write_bytes(data)
            tiny_imagenet(folder, "novel_val", threads=1)
            tiny_imagenet_boxes(folder, "novel_val")

    seeds = [
        Seed(".csv", classes),
        Seed(".zip", zipped(small)),
        Seed(".zip", zipped(drawings)),
        archives(cifar)[1],
    ]
    return seeds, read


COCO = {
    "images": [
        {"id": 7, "file_name": "a/1.png", "height": 6, "width": 6},
        {"id": 9, "file_name": "b/3.png", "height": 6, "width": 6},
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0.5, 0, 2, 4]},
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 6, 6], "iscrowd": 1},
    ],
}
VOC = b"""<annotation><filename>1.png</filename>
<size><width>6</width><height>6</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"""


@reader(
    "fewshotjax.detection.data.read_coco",
    "fewshotjax.detection.data.read_coco_detections",
    "fewshotjax.detection.data.read_images",
    "fewshotjax.detection.user_support.read_support",
)
def coco(folder: Path) -> Made:
    """COCO's annotations and detections, and the pictures that they name."""
    from fewshotjax.detection.data import read_coco, read_coco_detections
    from fewshotjax.detection.user_support import read_support

    for name, data in PICTURES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    known = folder / "known.json"
    known.write_text(json.dumps(COCO))
    annotations = read_coco(known)
    found = [{"image_id": 7, "category_id": 2, "bbox": [1, 1, 3, 3], "score": 0.5}]

    def read(path: Path) -> None:
        if path.read_bytes()[:1] == b"[":
            read_coco_detections(path, annotations)
        else:
            outcome(lambda: read_coco(path, faulty="repair"))
            read_support(path, folder)

    return [Seed(".json", json.dumps(COCO).encode()), Seed(".json", json.dumps(found).encode())], read


@reader("fewshotjax.detection.data.read_voc", "fewshotjax.detection.data.bccd.bccd")
def voc(folder: Path) -> Made:
    """VOC's annotations, alone, beside their pictures, and in BCCD's archive."""
    from fewshotjax.detection.data import read_voc
    from fewshotjax.detection.data.bccd import bccd
    from fewshotjax.detection.user_support import read_support

    (folder / "bccd").mkdir()
    cells = VOC.replace(b"cat", b"RBC").replace(b"dog", b"WBC")
    inside = {
        "BCCD/ImageSets/Main/val.txt": b"1\n",
        "BCCD/Annotations/1.xml": cells,
        "BCCD/JPEGImages/1.png": png(6, 6),
    }

    def read(path: Path) -> None:
        if path.suffix == ".xml":
            read_voc(path.parent, [path.stem], faulty="repair")
        elif path.is_dir():
            read_support(path)
        else:
            (folder / "bccd" / "bccd.zip").write_bytes(path.read_bytes())
            bccd(folder, "val", threads=1)

    beside = archives({"1.xml": VOC, "1.png": png(6, 6)})[3]
    return [Seed(".xml", VOC), beside, Seed(".zip", zipped(inside))], read


@reader("fewshotjax.detection.data.load_detection_episodes")
def detection_episodes(folder: Path) -> Made:
    """Lists of episodes of detection."""
    from fewshotjax.detection.data import load_detection_episodes

    row = {
        "classes": ["cat", "dog"],
        "support": [
            {"file": "a.png", "class": "cat", "box": [0, 0, 4, 4]},
            {"file": "b.png", "class": "dog", "box": [1, 1, 4.5, 4]},
        ],
        "queries": ["c.png"],
    }
    from fewshotjax.detection.data.episode_files import SCHEMA

    return [
        Seed(".json", json.dumps({"schema": SCHEMA, "episodes": [row, row]}).encode())
    ], load_detection_episodes


def small_detector() -> Any:
    """A detector of a few channels with drawn weights."""
    import jax

    from fewshotjax import RepMetConfig
    from fewshotjax.detection import AnchorConfig, DetectorConfig, pyramid
    from fewshotjax.detection.detector import init_detector

    config = DetectorConfig(
        channels=4,
        anchors=AnchorConfig(strides=(4, 8, 16, 32)),
        before_nms=20,
        proposals=8,
        roi_size=2,
        hidden=(4,),
        head=RepMetConfig(modes=2, embedding=3, posterior="softmax", background=True),
        per_image=4,
    )
    trunk = pyramid("resnet18_pyramid", key=jax.random.key(0), width=1 / 16)
    return init_detector(jax.random.key(1), trunk, config, ("cat", "dog"))


@reader("fewshotjax.detection.load_detector", "fewshotjax.detector")
def detectors(folder: Path) -> Made:
    """A detector's file."""
    from fewshotjax.detection import load_detector, save_detector

    made = small_detector()
    return [written(folder, ".safetensors", lambda p: save_detector(p, made))], load_detector


def squares() -> tuple[Any, Any]:
    """Sliding windows over colours, and two photographs with a box each."""
    import jax.numpy as jnp

    from fewshotjax import Preprocess
    from fewshotjax.detection.data import boxed
    from fewshotjax.detection.pyramids import pyramid_from_function
    from fewshotjax.detection.sliding import WindowConfig
    from fewshotjax.detection.windows import Windows

    def colours(params: Any, x: Any) -> Any:
        b, h, w, c = x.shape
        return tuple(x.reshape(b, h // s, s, w // s, s, c).mean(axis=(2, 4)) for s in (4, 8))

    trunk = pyramid_from_function(colours, Preprocess(32), jnp.ones(3), strides=(4, 8), name="colours")
    windows = Windows(
        trunk, WindowConfig(scales=(1.0,), step=0.5, bins=((0, 2), (1, 1)), background=8, per_image=4)
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 99, (2, 32, 32, 3)).astype(np.uint8)
    images[0, 4:16, 4:16], images[1, 10:22, 8:20] = (220, 20, 20), (20, 20, 220)
    boxes = [np.float32([[4, 4, 16, 16]]), np.float32([[8, 10, 20, 22]])]
    return windows, boxed(images, boxes, [[0], [1]], ("red", "blue"), ("a", "b"))


@reader("fewshotjax.load_new_classes")
def found_classes(folder: Path) -> Made:
    """New classes that were shown by boxes."""
    import jax

    from fewshotjax import load_new_classes, new_classes, save_new_classes

    windows, support = squares()
    made = new_classes(jax.random.key(0), windows, support, pixels=32)
    return [
        written(folder, ".safetensors", lambda p: save_new_classes(p, made))
    ], lambda path: load_new_classes(path, windows)
