"""Seconds until each console command shows its first result, in a fresh process with an empty cache.

The sizes are the smallest of use: what counts is what is imported, traced and compiled before anything is
seen. Networks, chips and options are the defaults elsewhere; pictures, boxes and features are drawn here.
`cpu_s` is the processor time of the process and its threads until then: on a busy machine wall time is
longer, on an idle one with two cores it lies between a half of `cpu_s` and all of it. `second_s` is the same
command again, with what the first one kept.

COMMANDS=egrljax,detect measures those with one of these words in their names.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .common import QUICK, finish, say

LIMIT_S = 30.0
KEPT = re.compile(r"compiled (\d+) programs? in ([\d.]+) s \((\d+) from the cache\)")


class Command(NamedTuple):
    name: str
    line: str  # {data}: folder of `write_data`, {out}: a folder of the command's own
    first: str | None = None  # of the line that is the first result; None: the end
    quick: bool = True


MAP = "egrljax map --workload resnet50 --chip nnp_i_tight --out {out}/run"
SMALL = "--calibration 8 --search-images 8 --report 8"
COMMANDS = (
    Command("hwmodel_report", "hwmodel report resnet50 --chip nnp_i_tight --time-limit 2"),
    Command("hwmodel_zoo", "hwmodel zoo"),
    Command("egrljax_map", MAP),
    Command("egrljax_map_egrl", f"{MAP} --engine egrl --budget 1000 --solver-s 0", r"^map \d+/", False),
    Command(
        "egrljax_train",
        "egrljax train --workload resnet50 --chip nnp_i_tight --out {out}/policy --budget 400",
        r"^train \d+/",
        False,
    ),
    Command(
        "nemojax_search", f"nemojax search --out {{out}}/run --budget 40 {SMALL}", r"^search \d+/", False
    ),
    Command("nemojax_evaluate", "nemojax evaluate 4 --report 8 --resolution 128"),
    Command(
        "nemojax_train",
        "nemojax train --data {data}/cifar --out {out}/run --epochs 1 --images 256",
        r"^epoch 1/1",
        False,
    ),
    Command("fewshotjax_classify", "fewshotjax classify --support {data}/support --query {data}/query"),
    Command("fewshotjax_evaluate", "fewshotjax evaluate --data {data}/support --queries 4 --episodes 100"),
    Command(
        "fewshotjax_train", "fewshotjax train --data {data}/support --out {out}/run --epochs 1 --pixels 32"
    ),
    Command(
        "fewshotjax_detect",
        "fewshotjax detect --support {data}/boxes/boxes.json --images {data}/photos --out {out}/found",
        None,
        False,
    ),
    Command(
        "fewshotjax_train_detector",
        "fewshotjax train-detector --boxes {data}/boxes/boxes.json --out {out}/net.safetensors --epochs 1",
        None,
        False,
    ),
    Command(
        "fewshotjax_train_delta",
        "fewshotjax train-delta --features {data}/seen.npz --out {out}/delta.safetensors --hidden 1024 "
        "--epochs 1",
    ),
    Command(
        "fewshotjax_synthesize",
        "fewshotjax synthesize --features {data}/new.npz --delta {data}/delta.safetensors --out {out}/x.npz",
    ),
)


def write_data(folder: Path) -> None:
    """Pictures by class, photographs with boxes, CIFAR-like folders, features: all drawn."""
    rng = np.random.default_rng(0)

    def picture(path: Path, shade: int, side: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 40, (side, side, 3)) + np.array([shade * 40 % 200, shade * 70 % 200, 90])
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    for label in range(5):
        for i in range(8):
            picture(folder / "support" / f"class{label}" / f"{i}.png", label, 64)
        picture(folder / "query" / f"{label}.png", label, 64)
    for part, count in (("train", 230), ("test", 10)):
        for label in range(10):
            for i in range(count):
                picture(folder / "cifar" / part / f"class{label}" / f"{i}.png", label, 32)
    record: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for kind in range(2):
        record["categories"].append({"id": kind + 1, "name": f"kind{kind}"})
    for i in range(8):
        name = f"{i}.png"
        picture(folder / "boxes" / name, i % 3, 128)
        picture(folder / "photos" / name, i % 3, 128)
        record["images"].append({"id": i, "file_name": name, "width": 128, "height": 128})
        box = {"image_id": i, "category_id": i % 2 + 1, "bbox": [20, 20, 60, 60], "area": 3600, "iscrowd": 0}
        record["annotations"].append({"id": i, **box})
    (folder / "boxes" / "boxes.json").write_text(json.dumps(record))
    labels = np.repeat(np.arange(10), 64)
    features = rng.normal(size=(640, 512)).astype(np.float32) + labels[:, None]
    np.savez(folder / "seen.npz", features=features, labels=labels)
    np.savez(folder / "new.npz", features=features[::64], labels=labels[::64])


def timed(command: Command, data: Path, cache: Path) -> dict[str, Any]:
    """Runs a command to its end; seconds until its first result, wall and processor."""
    with tempfile.TemporaryDirectory() as out:
        program, *arguments = shlex.split(command.line.format(data=data, out=out))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMP")}
        environment |= {"XDG_CACHE_HOME": str(cache), "FRUGALJAX_COMPILE_CACHE": "1"}
        start = f"import sys; sys.argv[0] = {program!r}; from {program}.cli import main; main()"
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-c", start, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        killer = threading.Timer(600, child.kill)
        killer.start()
        found: dict[str, Any] = {}
        lines: list[str] = []
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if command.first and not found and re.search(command.first, line):
                found = {"first_s": time.perf_counter() - began, "cpu_s": _cpu_s(child.pid)}
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        killer.cancel()
        end, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    if child.returncode:
        raise SystemExit(f"{command.name} ended with exit code {child.returncode}:\n{''.join(lines[-20:])}")
    if command.first and not found:
        raise SystemExit(f"{command.name} printed no line like {command.first!r}:\n{''.join(lines[-20:])}")
    found = found or {"first_s": end, "cpu_s": cpu}
    compiled = [KEPT.search(line) for line in lines[-3:]]
    programs = next((one for one in reversed(compiled) if one), None)
    return {
        "first_s": round(found["first_s"], 1),
        "cpu_s": round(found["cpu_s"], 1),
        "end_s": round(end, 1),
        "programs": int(programs[1]) if programs else 0,
        "compile_s": float(programs[2]) if programs else 0.0,
    }


def _cpu_s(process: int) -> float:
    """Processor seconds of a process and its threads so far; NaN where the kernel has no such table."""
    table = Path(f"/proc/{process}/stat")
    if not table.exists():
        return float("nan")
    fields = table.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    words = [word for word in os.environ.get("COMMANDS", "").split(",") if word]
    chosen = [
        c for c in COMMANDS if any(w in c.name for w in words) or (not words and (c.quick or not QUICK))
    ]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as top:
        data = Path(top) / "data"
        write_data(data)
        if any("synthesize" in command.name for command in chosen):
            make = next(c for c in COMMANDS if c.name == "fewshotjax_train_delta")
            line = make.line.replace("{out}/delta", "{data}/delta")
            timed(make._replace(line=line), data, Path(top) / "other")
        for command in chosen:
            cache = Path(top) / command.name
            row = timed(command, data, cache)
            again = timed(command, data, cache)
            row |= {"second_s": again["first_s"], "second_cpu_s": again["cpu_s"]}
            rows[command.name] = row
            say(f"{command.name}: {row}")
    worst = max(rows, key=lambda name: rows[name]["first_s"])
    finish(
        "cold_start",
        {
            "limit_s": LIMIT_S,
            "worst": worst,
            "worst_s": rows[worst]["first_s"],
            "worst_cpu_s": max(row["cpu_s"] for row in rows.values()),
            "commands": rows,
        },
        store=not words,
    )


if __name__ == "__main__":
    main()
