"""hwmodel beside ZigZag, layer by layer: the same networks, and a chip with ZigZag's numbers.

ZigZag tiles every layer over an array of multipliers and the memories around it and searches the order of
its loops; hwmodel takes the longest of compute and transfers. All tensors lie in DRAM, where ZigZag keeps
them between layers. A second of the equivalent chip is a cycle of ZigZag's. Three times of ours per layer:

    plain   the chip at its peak rate
    kinds   with `efficiency` of depthwise layers: they have no channels to spread over the array
    array   plain, but with the cycles that ZigZag's spatial mapping needs for compute: what is left is
            transfers, which ZigZag moves in tiles and does not fully hide

ZigZag's own time splits into ideal cycles, cycles lost to units without work, stalls, and loading before and
after the layer. Nothing is expected to be equal.
"""

import contextlib
import io
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import spearmanr

import hwmodel as hw
from benchmarks.common import QUICK, finish, say

LPF_LIMIT = 4  # ZigZag's bound on the loops whose order it searches; its default is 6
CASES = (
    (("resnet18", "tpu_like"), ("mobilenetv2", "tpu_like"))
    if QUICK
    else (
        ("resnet18", "tpu_like"),
        ("mobilenetv2", "tpu_like"),
        ("alexnet", "tpu_like"),
        ("resnet18", "meta_prototype"),
        ("mobilenetv2", "meta_prototype"),
    )
)
MAPPINGS = {"tpu_like": "tpu_like", "meta_prototype": "meta_prototype_like"}
# Whole-network cycles of ResNet-18 in ZigZag's own tests; they change from version to version.
ZIGZAG_TESTS = {"tpu_like": 3.70396e6, "meta_prototype": 2.70045e6}
FORMS = ("plain", "kinds", "array")


def main() -> None:
    networks = [compare(network, hardware) for network, hardware in CASES]
    finish(
        "zigzag",
        {
            "settings": {"lpf_limit": LPF_LIMIT, "optimised_for": "latency", "bits": 8},
            "networks": networks,
            "lowest_rank_correlation": min(n["spearman"]["plain"] for n in networks),
        },
    )


def compare(network: str, hardware: str) -> dict:
    """One network on one chip; cycles throughout."""
    inputs = inputs_folder()
    start = time.perf_counter()
    theirs = zigzag_layers(network, hardware)
    seconds = time.perf_counter() - start
    plain, kinds = equivalent_chips(inputs, hardware)
    work = hw.from_onnx(inputs / "workload" / f"{network}.onnx", fusion=False)
    # the result is written once, to where it is placed, as ZigZag does; `external_io` is for the input
    work = hw.Workload(tuple(replace(op, is_output=False) for op in work.operations), name=work.name)
    in_dram = np.zeros((len(work.operations), 2), np.int32)
    exact, by_kind = (hw.explain(work, chip, in_dram) for chip in (plain, kinds))
    layers = same_layers(work, theirs)

    rows = []
    for i, their in zip(layers, theirs, strict=True):
        transfers = float(exact.terms.level_s[i].max())
        ours = {
            "plain": float(exact.time_s[i]),
            "kinds": float(by_kind.time_s[i]),
            "array": max(their["ideal"] + their["idle_units"], transfers),
        }
        rows.append({**their, "kind": exact.kinds[i], "transfers": transfers, **ours})
        times = {"ZigZag": their["zigzag"], **ours}
        say(
            f"{hardware} {network} {work.operations[i].name[-40:]:40s} {exact.kinds[i]:6s} "
            + " ".join(f"{form} {cycles:10.0f}" for form, cycles in times.items())
        )
    column = {name: np.array([row[name] for row in rows]) for name in rows[0] if name not in ("name", "kind")}
    total = column["zigzag"].sum()
    parts = ("ideal", "idle_units", "stall", "loading")
    return {
        "network": network,
        "hardware": hardware,
        "layers": len(rows),
        "zigzag_cycles": float(total),
        "zigzag_own_test_cycles": ZIGZAG_TESTS[hardware] if network == "resnet18" else None,
        "zigzag_seconds": round(seconds, 1),
        "spearman": {form: round(float(spearmanr(column[form], column["zigzag"])[0]), 4) for form in FORMS},
        "ratio_of_totals": {form: round(float(column[form].sum() / total), 4) for form in FORMS},
        "layers_longer_than_zigzag": {form: int((column[form] > column["zigzag"]).sum()) for form in FORMS},
        "zigzag_parts": {part: round(float(column[part].sum() / total), 4) for part in parts},
        "rows": rows,
    }


def same_layers(work: hw.Workload, theirs: list[dict]) -> list[int]:
    """Operations that are ZigZag's layers: by name, or by order where the file names no nodes."""
    ours = [i for i, op in enumerate(work.operations) if op.kind in ("conv", "dwconv", "dense", "matmul")]
    position = {work.operations[i].name: i for i in ours}
    if set(position) == {their["name"] for their in theirs}:
        ours = [position[their["name"]] for their in theirs]
    if [work.operations[i].macs for i in ours] != [their["macs"] for their in theirs]:
        raise RuntimeError(f"{work.name}: ZigZag and hwmodel disagree about the layers or their MACs")
    return ours


def inputs_folder() -> Path:
    """Networks, chips and mappings that ZigZag ships."""
    import zigzag

    return Path(zigzag.__file__).parent / "inputs"


def zigzag_layers(network: str, hardware: str) -> list[dict]:
    """ZigZag's cycles of each layer, and what they consist of."""
    from zigzag.api import get_hardware_performance_zigzag

    inputs = inputs_folder()
    logging.disable(logging.WARNING)  # a line per layer and stage
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        *_, found = get_hardware_performance_zigzag(
            str(inputs / "workload" / f"{network}.onnx"),
            str(inputs / "hardware" / f"{hardware}.yaml"),
            str(inputs / "mapping" / f"{MAPPINGS[hardware]}.yaml"),
            opt="latency",
            lpf_limit=LPF_LIMIT,
            dump_folder=folder,
            loma_show_progress_bar=False,
        )
    logging.disable(logging.NOTSET)
    return [
        {
            "name": cost.layer.name,
            "macs": int(cost.layer.total_mac_count),
            "zigzag": float(cost.latency_total2),
            "ideal": float(cost.ideal_cycle),
            "idle_units": float(cost.ideal_temporal_cycle - cost.ideal_cycle),
            "stall": float(cost.latency_total0 - cost.ideal_temporal_cycle),
            "loading": float(cost.latency_total2 - cost.latency_total0),
        }
        for cost, _ in found[0][1]
    ]


def equivalent_chips(inputs: Path, hardware: str) -> tuple[hw.Chip, hw.Chip]:
    """The chip at its peak rate, and one that knows how depthwise layers fill the array.

    Levels: DRAM, whose one port reads and writes; and the largest memory above it that holds outputs and
    inputs. Registers at the multipliers and operand buffers hold parts of tensors, which placements do not
    know. Sizes are in bits and bandwidths in bits per cycle there.
    """
    described = yaml.safe_load((inputs / "hardware" / f"{hardware}.yaml").read_text())
    mapping = yaml.safe_load((inputs / "mapping" / f"{MAPPINGS[hardware]}.yaml").read_text())
    memories, array = described["memories"], described["operational_array"]
    shared = {n: m for n, m in memories.items() if {"I1", "O"} <= set(m["operands"]) and n != "dram"}
    buffer = max(shared, key=lambda n: shared[n]["size"])
    levels = (
        level("dram", memories["dram"], None),
        level(buffer, shared[buffer], shared[buffer]["size"] // 8),
    )
    units = int(np.prod(array["sizes"]))  # a multiply-accumulate each per cycle
    source = f"inputs/hardware/{hardware}.yaml of zigzag-dse 3.9"
    plain = hw.Chip(
        hardware, levels, (hw.Rate(8, 8, 2.0 * units),), external_io="dram", source=source
    )  # 1 MAC = 2 operations
    unrolled = next(m for m in mapping if m["name"] == "default")["spatial_mapping"]
    # a group of a depthwise layer has one input and one output channel, and groups follow each other
    idle = np.prod([size for loops in unrolled.values() for loop, size in map(pair, loops) if loop in "KC"])
    return plain, replace(plain, efficiency=(("dwconv", float(1 / idle)),))


def level(name: str, memory: dict, capacity_bytes: int | None) -> hw.Level:
    """A memory with the bandwidth that its ports have in ZigZag; shared where one port does both."""
    per_cycle = {port["type"]: port["bandwidth_max"] / 8 for port in memory["ports"]}
    both = per_cycle.get("read_write")
    return hw.Level(
        name,
        read_bytes_per_s=both or per_cycle["read"],
        write_bytes_per_s=both or per_cycle["write"],
        capacity_bytes=capacity_bytes,
        align_bytes=1,
        ports="shared" if both else "dual",
    )


def pair(loop: str | list) -> tuple[str, int]:
    """A loop of a mapping file, "K, 32" or [K, 32]."""
    name, size = loop.split(",") if isinstance(loop, str) else loop
    return name.strip(), int(size)


if __name__ == "__main__":
    main()
