"""Readers of hwmodel and egrljax, with a few valid files for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_target import Made, Seed, reader


def written(folder: Path, suffix: str, write: Any) -> Seed:
    """What a writer of ours puts into a file."""
    place = folder / f"seed{suffix}"
    write(place)
    return Seed(suffix, place.read_bytes())


def outcome(run: Callable[[], Any]) -> ValueError | None:
    """The documented error of one of several readers of the same file."""
    try:
        run()
    except ValueError as error:
        return error
    return None


def chain(count: int = 4) -> Any:
    """A workload of a few operations in a row, two of which share weights."""
    from hwmodel import Edge, Operation, Workload

    ops = [
        Operation(
            f"op{i}",
            "conv",
            10,
            100,
            100,
            min(i, 2),
            0,
            200,
            (Edge(i - 1, 200),) if i else (),
            (1, 1, 1),
            (1, 1, 1),
            is_output=i == count - 1,
        )
        for i in range(count)
    ]
    return Workload(tuple(ops), name="chain")


def small_chip() -> Any:
    """Two memories and one rate."""
    from hwmodel import Chip, Level, Rate

    return Chip(
        name="two",
        levels=(Level("dram", 1e9, 1e9), Level("sram", 1e10, 1e10, capacity_bytes=4096)),
        compute=(Rate(8, 8, 1e12),),
        efficiency=(("conv", 0.5),),
        warnings=("measured by nobody",),
    )


@reader("hwmodel.load_chip")
def chips(folder: Path) -> Made:
    """Chips as TOML and JSON."""
    from hwmodel import load_chip, preset_names, save_chip
    from hwmodel.chips.file import preset_text

    seeds = [Seed(".toml", preset_text(name).encode()) for name in preset_names()[:4]]
    seeds += [written(folder, suffix, lambda p: save_chip(p, small_chip())) for suffix in (".toml", ".json")]
    return [s for s in seeds if b"[[compute]]" in s.data or s.suffix == ".json"], lambda path: load_chip(
        path, warn=False
    )


@reader("hwmodel.load_workload", "hwmodel.load_model")
def workloads(folder: Path) -> Made:
    """Workloads as JSON."""
    from hwmodel import load_model, random_workload, save_workload

    works = [chain(), random_workload(0, 6, tied_probability=0.3, partial_probability=0.3)]
    seeds = [written(folder, ".json", lambda p, w=w: save_workload(p, w)) for w in works]
    return seeds, lambda path: load_model(str(path))


@reader("hwmodel.from_onnx")
def onnx_files(folder: Path) -> Made:
    """ONNX models of a few nodes: convolutions, shapes computed in the graph, matrices."""
    from onnx import TensorProto, helper

    from hwmodel import from_onnx

    real, whole = TensorProto.FLOAT, TensorProto.INT64

    def model(nodes: list[Any], stored: list[Any], shape: tuple[Any, ...] = ("n", 3, 8, 8)) -> Seed:
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", real, shape)],
            [helper.make_tensor_value_info("y", real, None)],
            stored,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        return Seed(".onnx", made.SerializeToString())

    def tensor(name: str, shape: tuple[int, ...]) -> Any:
        return helper.make_tensor(name, real, shape, np.zeros(int(np.prod(shape))))

    def numbers(name: str, *values: int) -> Any:
        return helper.make_tensor(name, whole, (len(values),), values)

    node = helper.make_node
    seeds = [
        model(
            [
                node("Conv", ["x", "w", "b"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
                node("Relu", ["a"], ["r"]),
                node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
                node("Flatten", ["p"], ["f"], axis=1),
                node("Gemm", ["f", "m", "c"], ["y"], transB=1),
            ],
            [tensor("w", (4, 3, 3, 3)), tensor("b", (4,)), tensor("m", (5, 16)), tensor("c", (5,))],
        ),
        model(
            [
                node("Shape", ["x"], ["s"]),
                node("Gather", ["s", "zero"], ["n"], axis=0),
                node("Concat", ["n", "minus"], ["to"], axis=0),
                node("Reshape", ["x", "to"], ["flat"]),
                node("Slice", ["flat", "zero", "ten", "one"], ["left"]),
                node("MatMul", ["left", "m"], ["q"]),
                node("Transpose", ["q"], ["t"], perm=[1, 0]),
                node("ReduceMean", ["t"], ["u"], axes=[0], keepdims=1),
                node("Softmax", ["u"], ["y"], axis=-1),
            ],
            [
                numbers("zero", 0),
                numbers("minus", -1),
                numbers("ten", 10),
                numbers("one", 1),
                tensor("m", (10, 6)),
            ],
            (1, 3, 8, 8),
        ),
    ]

    def read(path: Path) -> None:
        first = outcome(lambda: from_onnx(path))
        second = outcome(lambda: from_onnx(path, unknown="elementwise", batch=2))
        if first and second:
            raise first

    return seeds, read


@reader("hwmodel.load_placement", errors=(ValueError,))
def addresses(folder: Path) -> Made:
    """Allocations as JSON."""
    from hwmodel import allocate, load_placement, save_placement

    placement = np.zeros((4, 2), np.int64)
    placement[:3] = 1
    work, chip = chain(), small_chip()
    found = allocate(work, chip, placement)
    return [written(folder, ".json", lambda p: save_placement(p, found))], lambda path: load_placement(
        path, work, chip
    )


@reader("hwmodel.report.placement_csv.read_placement_csv")
def placement_tables(folder: Path) -> Made:
    """Placements that people edit."""
    from hwmodel.report.placement_csv import read_placement_csv

    rows = ["operation,weight_level,output_level", *(f"op{i},sram,dram" for i in range(4))]
    work, chip = chain(), small_chip()
    return [Seed(".csv", "\n".join(rows).encode())], lambda path: read_placement_csv(path, work, chip)


@reader("hwmodel.addresses.read_minimalloc")
def buffers(folder: Path) -> Made:
    """minimalloc's CSV."""
    from hwmodel.addresses import Buffer, read_minimalloc, write_minimalloc

    some = (Buffer("a", 0, 3, 4), Buffer("b, c", -2, 9, 5), Buffer("d", 1, 2, 6))
    seeds = [
        written(folder, ".csv", lambda p: write_minimalloc(p, some)),
        written(folder, ".csv", lambda p: write_minimalloc(p, some, [0, 8, 16])),
    ]
    return seeds, read_minimalloc


@reader("egrljax.load_state", "nemojax.load_state")
def states(folder: Path) -> Made:
    """Checkpoints of searches."""
    from egrljax import load_state, save_state

    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": {"b": np.arange(3), "c": np.float32(1)}}
    settings = {"seed": 1, "sizes": [1, 2], "name": "x"}
    seed = written(folder, ".state", lambda p: save_state(p, state, settings))
    return [seed], lambda path: load_state(path, state, settings)


@reader("egrljax.load_policy")
def policies(folder: Path) -> Made:
    """Policies that were trained to place."""
    from egrljax import EGRLConfig, PolicyConfig, TrainedPolicy, egrl, load_policy, save_policy

    config = PolicyConfig(hidden=4, heads=1, depth=1, decisions=2)
    size = egrl(EGRLConfig(policy=config), 9).genome.size
    policy = TrainedPolicy(np.zeros(size, np.float32), config, 9, trained_on=("net",))
    return [written(folder, ".state", lambda p: save_policy(p, policy))], load_policy
