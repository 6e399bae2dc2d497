"""Every frozen dataclass of the packages that checks itself, made of values of right and wrong types.

They are found by walking the packages, so that a new one is fuzzed from its first day. Where fields have no
defaults, `BASES` holds an instance to start from.
"""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.fuzz_mutations import FLOATS, INTEGERS, TEXTS
from benchmarks.fuzz_target import Case, Draw, SeedRefused, Target, png

PACKAGES = ("hwmodel", "egrljax", "nemojax", "fewshotjax")
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        (),
        (1,),
        ("a",),
        ((),),
        [],
        [1, 2],
        {},
        {"a": 1},
        set(),
        b"x",
        1j,
        object(),
        int,
        len,
    ),
    *(
        np.zeros(0),
        np.ones(3),
        np.float32(0.5),
        np.int64(3),
        np.array("a"),
        np.array([None]),
        np.full((2, 2), np.nan),
    ),
)


def constructors() -> Iterator[tuple[str, type]]:
    """Dotted name and class of all frozen dataclasses with checks."""
    for package in PACKAGES:
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if info.name.endswith("__main__"):
                continue
            for name, cls in vars(importlib.import_module(info.name)).items():
                ours = inspect.isclass(cls) and cls.__module__ == info.name and dataclasses.is_dataclass(cls)
                if not ours or name.startswith("_") or "__post_init__" not in vars(cls):
                    continue
                if cls.__dataclass_params__.frozen:  # the others are modules of flax
                    yield f"{info.name}.{name}", cls


def target(name: str, cls: type) -> Target:
    """Of one class."""
    return Target(f"make {name}", (name,), lambda folder: _prepared(name, cls), one_line=False)


def _prepared(name: str, cls: type) -> Draw:
    base = BASES[name]() if name in BASES else {}
    fields = [field for field in dataclasses.fields(cls) if field.init]

    def draw(rng: np.random.Generator, number: int) -> Case:
        given = dict(base)
        if number:
            for i in rng.permutation(len(fields))[: int(rng.choice((1, 1, 2, 4)))]:
                field = fields[int(i)]
                if rng.random() < 0.5:
                    given[field.name] = _value(rng, field.type)
                elif field.name in given and rng.random() < 0.5:
                    given[field.name] = _near(rng, given[field.name])
                else:
                    given[field.name] = odd(rng)

        def run() -> None:
            try:
                with AROUND.get(name, contextlib.nullcontext)():
                    cls(**given)
            except Exception as error:
                if not number:
                    raise SeedRefused(str(error)) from error
                raise

        return Case(run, lambda: f"{name}(**{given!r})"[:20_000].encode("utf-8", "replace"), ".txt")

    return draw


def odd(rng: np.random.Generator) -> Any:
    """Anything at all."""
    kinds = (ODD, INTEGERS, FLOATS, TEXTS)
    some = kinds[int(rng.integers(len(kinds)))]
    return some[int(rng.integers(len(some)))]


def _value(rng: np.random.Generator, kind: Any) -> Any:
    """A value of an annotated type, in or out of range."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _value(rng, arguments[int(rng.integers(len(arguments)))])
    if origin is typing.Literal:
        return arguments[int(rng.integers(len(arguments)))]
    if origin is tuple and arguments:
        if arguments[-1] is Ellipsis:
            return tuple(_value(rng, arguments[0]) for _ in range(int(rng.integers(0, 4))))
        return tuple(_value(rng, one) for one in arguments)
    if kind is bool:
        return bool(rng.integers(2))
    if kind is int:
        return int(rng.choice((0, 1, 2, 3, 4, 8, 16, 100, -1)))
    if kind is float:
        return float(rng.choice((0.0, 0.1, 0.5, 1.0, 2.0, -1.0, 1e9, np.inf, np.nan)))
    if kind is str:
        return str(rng.choice(("", "a", "mse", "none", "auto")))
    if dataclasses.is_dataclass(kind):
        try:
            return kind()
        except TypeError:
            return None
    return None if kind in (None, type(None)) else odd(rng)


def _near(rng: np.random.Generator, value: Any) -> Any:
    """Something like a value: an array of another shape, type or with NaN, a list or a piece of a tuple."""
    if isinstance(value, np.ndarray):
        flat = value.astype(np.float64) if value.dtype.kind in "iufb" else value
        ways: tuple[Callable[[], Any], ...] = (
            lambda: value[:-1],
            lambda: value[None],
            lambda: value.astype(np.float64) if value.dtype.kind in "iufb" else value.reshape(-1),
            lambda: flat * np.nan if flat.dtype.kind == "f" else value,
            lambda: -flat if flat.dtype.kind == "f" else value,
            lambda: value.tolist(),
            lambda: value.astype(str),
            lambda: value.astype(object),
        )
        return ways[int(rng.integers(len(ways)))]()
    if isinstance(value, tuple):
        ways = (
            lambda: value[:-1],
            lambda: value * 2,
            lambda: list(value),
            lambda: (*value, odd(rng)),
            lambda: (value,),
        )
        return ways[int(rng.integers(len(ways)))]()
    return odd(rng)


def _levels() -> Any:
    from benchmarks.fuzz_hwmodel import small_chip

    return small_chip()


def _policy() -> dict[str, Any]:
    from egrljax import EGRLConfig, PolicyConfig, egrl

    config = PolicyConfig(hidden=4, heads=1, depth=1, decisions=2)
    size = egrl(EGRLConfig(policy=config), 9).genome.size
    return {"vector": np.zeros(size, np.float32), "policy": config, "features": 9}


def _source() -> Any:
    import tempfile

    from nemojax.sources import Source

    place = Path(tempfile.mkdtemp())
    (place / "a.png").write_bytes(png())
    return Source(place)


def _truth() -> dict[str, Any]:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3]], np.float64)
    return {"image_index": np.array([0, 1]), "labels": np.array([0, 1]), "boxes": boxes}


def _annotations() -> dict[str, Any]:
    from fewshotjax.detection.metrics.records import GroundTruth

    return {
        "files": ("a", "b"),
        "sizes": np.full((2, 2), 4),
        "classes": ("x", "y"),
        "truth": GroundTruth(**_truth()),
        "image_ids": (1, 2),
        "category_ids": (1, 2),
    }


def _boxed() -> dict[str, Any]:
    return {
        "images": np.zeros((2, 8, 8, 3), np.uint8),
        "boxes": np.tile(np.float32([0, 0, 2, 2]), (2, 1, 1)),
        "shown": np.ones((2, 1), bool),
        "labels": np.zeros((2, 1), np.int32),
        "classes": ("x",),
    }


def _detection_episode() -> dict[str, Any]:
    from fewshotjax.detection.data import SupportBox

    return {"classes": ("x",), "support": (SupportBox("a", "x", (0.0, 0.0, 1.0, 1.0)),), "queries": ("b",)}


def _detection_episodes() -> dict[str, Any]:
    return {
        "classes": np.array([[0, 1]], np.int32),
        "support": np.array([[[0], [1]]], np.int32),
        "slots": np.zeros((1, 2, 1), np.int32),
        "shown": np.ones((1, 2, 1), bool),
        "queries": np.array([[2]], np.int32),
        "asked": np.ones((1, 1), bool),
        "names": ("x", "y"),
    }


def _windows() -> dict[str, Any]:
    from benchmarks.fuzz_fewshotjax import squares

    made = squares()[0]
    return {"pyramid": made.pyramid, "config": made.config}


def _pyramid() -> dict[str, Any]:
    made = _windows()["pyramid"]
    return {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.init}


def _pool() -> dict[str, Any]:
    from benchmarks.fuzz_fewshotjax import small_detector
    from fewshotjax.detection import Regions
    from fewshotjax.detection.data import BoxedImages

    four, one = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.float32)
    regions = Regions(four, four, np.zeros((2, 3, 5), np.float32), one, np.ones((2, 3), bool))
    return {
        "detector": small_detector(),
        "photographs": BoxedImages(**_boxed()),
        "regions": regions,
        "features": np.zeros((2, 1, 5), np.float32),
    }


def _front() -> dict[str, Any]:
    from benchmarks.fuzz_nemojax import front

    made = front()
    return {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}


# Where a constructor looks at more than its arguments.
AROUND: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "hwmodel.hosts.Hosts": lambda: mock.patch("jax.distributed.is_initialized", return_value=True),
}
BASES: dict[str, Callable[[], dict[str, Any]]] = {
    "hwmodel.addresses.buffers.Buffer": lambda: {"name": "a", "lower": 0, "upper": 2, "size": 4},
    "hwmodel.chip.Level": lambda: {"name": "a", "read_bytes_per_s": 1e9, "write_bytes_per_s": 1e9},
    "hwmodel.chip.Rate": lambda: {"weight_bits": 8, "activation_bits": 8, "ops_per_s": 1e9},
    "hwmodel.chip.Chip": lambda: {"name": "a", "levels": _levels().levels, "compute": _levels().compute},
    "hwmodel.workload.Workload": lambda: {
        "operations": importlib.import_module("benchmarks.fuzz_hwmodel").chain().operations
    },
    "egrljax.trained.TrainedPolicy": _policy,
    "nemojax.box.Box": lambda: {"low": np.zeros(2), "high": np.ones(2)},
    "nemojax.configuration.Configuration": lambda: {
        "bits": np.array([4, 8]), "names": ("a", "b"), "costs": {"e": 0.1}
    },
    "egrljax.external.command.Command": lambda: {"argv": ("true",)},
    "nemojax.custom_error.HostCost": lambda: {"name": "e", "function": len},
    "nemojax.custom_error.ErrorOfOutputs": lambda: {"name": "e", "function": len},
    "nemojax.custom_error.ErrorOfBits": lambda: {"name": "e", "function": len},
    "nemojax.data.labelled.Pictures": lambda: {
        "source": _source(), "names": ("a.png",), "labels": np.zeros(1, np.int32)
    },
    "nemojax.data.pipeline.Plan": lambda: {
        "count": 8, "batch": 2, "epochs": 1, "seed": 0, "drop_remainder": True
    },
    "nemojax.export.qwix_rules.QwixRule": lambda: {
        "module_path": "a", "weight_qtype": "int4", "act_qtype": None
    },
    "nemojax.front.Front": _front,
    "nemojax.images.ImageSet": lambda: {
        "images": np.zeros((2, 4, 4, 3), np.float32), "labels": np.zeros(2, np.int32), "names": ("a", "b")
    },
    "nemojax.objectives.TopKError": lambda: {"k": 1},
    "nemojax.report.sections.Table": lambda: {"title": "t", "columns": ("a",), "rows": (("1",),)},
    "nemojax.report.sections.Picture": lambda: {"data": png()},
    "nemojax.sensitivity.Sensitivity": lambda: {
        "names": ("a", "b"), "widths": (4, 8), "table": np.ones((2, 2)), "measure": "fisher"
    },
    "nemojax.space.BitSpace": lambda: {"names": ("a", "b"), "allowed": ((4, 8), (2, 4))},
    "fewshotjax.backbones.preprocess.Preprocess": lambda: {"pixels": 32},
    "fewshotjax.data.labelled.LabelledImages": lambda: {
        "images": np.zeros((2, 4, 4, 3), np.uint8),
        "labels": np.array([0, 1], np.int32),
        "classes": ("a", "b"),
    },
    "fewshotjax.detection.data.annotations.Annotations": _annotations,
    "fewshotjax.detection.data.boxed.BoxedImages": _boxed,
    "fewshotjax.detection.data.episode_files.DetectionEpisode": _detection_episode,
    "fewshotjax.detection.episodes.DetectionEpisodes": _detection_episodes,
    "fewshotjax.detection.metrics.records.Detections": lambda: {**_truth(), "scores": np.array([0.5, 0.6])},
    "fewshotjax.detection.metrics.records.GroundTruth": _truth,
    "fewshotjax.detection.pool.DetectionPool": _pool,
    "egrljax.checkpoint.Keep": lambda: {"path": "run.ckpt"},
    "fewshotjax.files.Keep": lambda: {"path": "run.ckpt"},
    "fewshotjax.detection.pyramids.Pyramid": _pyramid,
    "fewshotjax.detection.windows.Windows": _windows,
}  # fmt: skip
