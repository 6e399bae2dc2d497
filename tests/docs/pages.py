"""Each page that has something to run: how it is prepared, what is made small, what is not run and why.

`small` maps what is printed to what is run in its place; what it names must be on the page.
"""

from . import preparing
from .running import Page

SEARCH = "--resolution 16 --population 6 --calibration 4 --species continuous,floor --warm-start none"
CLI = f"{SEARCH} --search-images 4 --report 4 --budget 8"
ON_TINY_IMAGENET = "fewshotjax train-detector --boxes tiny_imagenet:base_train --out det.safetensors"
TRAIN = "--batch 25 --resolutions 8"

PATIENT = "solver_s=600.0"  # 20 s may be too few on a busy machine; a search would follow

PAGES = {
    "README.md": Page(
        preparing.readme,
        small={
            "resolution=128": "resolution=16",
            "budget=1000, on_chunk": "budget=12, config=small, warm_start=None, on_chunk",
            "budget=1000).front": "budget=12, config=small, warm_start=None).front",
            "images[:128], images[128:256]": "images[:8], images[8:14]",
            "episodes=10_000": "episodes=20",
            "hidden=1024": "hidden=8",
            "few), 1024": "few), 16",
            "nemojax search --out run": f"nemojax search --out run {CLI} --chip none",
            "--images FOLDER --top-k 1": f"--images FOLDER --top-k 1 {CLI} --chip none",
            "--budget 4000": "--budget 12",
            "--data CIFAR --out trained": f"--data CIFAR --out trained --epochs 1 {TRAIN}",
            "--out policy": "--out policy --budget 60",
        },
        late=(
            "egrljax train --workload a.onnx --workload b.onnx --chip my_chip.toml --out policy",
            "egrljax map --workload chosen.onnx --batch 1 --chip my_chip.toml --out quick --engine policy "
            "--policy policy",
            "hwmodel report resnet50 --chip nnp_i_tight --out report",
        ),
    ),
    "docs/nemo.md": Page(
        preparing.nemo_page,
        small={
            "resolution=128": "resolution=16",
            "budget=1000": "budget=12, config=config",
            "budget=600": "budget=24",
            "population=60": "population=24",
            '"bitops_max": 0.2}': '"bitops_max": 0.26}',
        },
        long=True,
    ),
    "docs/cosearch.md": Page(
        preparing.cosearch,
        small={
            "budget=500": "budget=12, config=small, warm_start=None",
            "budget=2000": "budget=60, config=small, warm_start=None",
        },
    ),
    "docs/deploy.md": Page(
        preparing.deploy,
        small={
            "--onnx net.onnx --packed net --qwix rules.json --jax net.stablehlo": "--onnx a.onnx --packed a "
            "--qwix a.json --jax a.stablehlo",
            "--imagenet DIR --json": "--imagenet DIR --calibration 4 --json",
            "QATConfig(distill=0.5)": "QATConfig(distill=0.5, steps=2, chunk=2, batch=4)",
            "task.on(unseen, labels), inputs": "task.on(unseen, labels), inputs, config=quick",
            "--data CIFAR --out DIR": f"--data CIFAR --out first --epochs 1 {TRAIN}",
            "--width 0.5 --epochs 10 --resolutions 24,32": f"--data CIFAR --out second --epochs 1 {TRAIN}",
            "--network resnet20_cifar --epochs 8 --resolutions 16,24,32,32": "--network resnet20_cifar "
            f"--data CIFAR --out third --epochs 1 {TRAIN}",
        },
        long=True,
    ),
    "docs/egrl.md": Page(
        preparing.egrl_page,
        small={
            "warn=False))": f"warn=False), {PATIENT})",
            "--out first": "--out first --solver-s 600",
            "budget=1000, checkpoint": "config=small, checkpoint",
            "dataclasses.replace(egrl.tuned(len(chip.levels)), budget=1000)": "small",
            "--chip mine.toml --out policy": "--chip mine.toml --out policy --budget 60",
            "map --engine policy": "map --workload a.onnx --chip mine.toml --out other --engine policy",
        },
        long=True,
    ),
    "docs/hwmodel.md": Page(preparing.hwmodel_page),
    "docs/fewshot.md": Page(
        preparing.fewshot,
        small={
            "episodes=10_000": "episodes=20",
            "epochs=6, ways=16, per_class=4": "epochs=1, ways=4, per_class=4",
            "pixels=32": "pixels=16",
        },
    ),
    "docs/detection.md": Page(
        preparing.detection,
        small={
            "--images photos/ --out found/": "--images photos/ --out detected/",
            "--images pictures/ --out det.safetensors": "--images pictures/ --out det.safetensors --epochs 1 "
            "--network efficientnet_lite0 --pixels 64 --batch 2",
        },
        not_run={
            ON_TINY_IMAGENET: "a data set, and a ResNet of many minutes; test_cli_detect.py has the command",
            "fewshotjax train --backbone resnet18_pyramid": "an option's value, and minutes of compiling",
        },
    ),
    "docs/delta.md": Page(
        preparing.delta,
        small={
            "hidden=1024": "hidden=8",
            "delta, seeds, 1024": "delta, seeds, 16",
            "--hidden 1024": "--hidden 8 --epochs 1",
            "--per-class 1024": "--per-class 16",
            "fs.delta_encoder(delta)": "fs.delta_encoder(delta, samples=8)",
            "labels, shots=1)": "labels, shots=1, episodes=4)",
            "episodes=200": "episodes=4, fit=few",
            '*test, "choice.json")': '*test, "choice.json", episodes=4, fit=few)',
        },
    ),
    "docs/report.md": Page(
        preparing.report,
        small={
            "nemojax search --out run": f"nemojax search --out run {CLI}",
            "nemojax search --out other": f"nemojax search --out other {CLI}",
            "budget=500": "budget=12, config=small, warm_start=None",
            "{small_chip.name: levels}": "{small_chip.name: levels_of(found.front)}",
        },
        long=True,
    ),
    "docs/edge_camera.md": Page(),  # tests/test_examples.py runs both of its commands, in small
    "docs/howto.md": Page(
        preparing.howto,
        small={
            "budget=1000": "budget=12, config=small, warm_start=None",
            "episodes=1000": "episodes=20",
            "hidden=1024": "hidden=8",
            "features[:1], 1024": "features[:1], 16",
        },
    ),
    "docs/faq.md": Page(
        not_run={"nemojax search --out run --resume --budget 4000": "README.md runs it"},
    ),
    "docs/scale.md": Page(
        preparing.scale,
        small={
            "budget=1000, mesh": "budget=12, config=small, warm_start=None, mesh",
            "budget=1000, checkpoint": "budget=12, config=small, warm_start=None, checkpoint",
        },
    ),
    "docs/index.md": Page(),
    "docs/tutorials/hwmodel.md": Page(long=True),
    "docs/tutorials/egrljax.md": Page(
        small={
            "work, chip)\nprint": f"work, chip, {PATIENT})\nprint",
            "--out first": "--out first --solver-s 600",
        },
        long=True,
    ),
    "docs/tutorials/nemojax.md": Page(
        preparing.nemo_tutorial,
        small={"nemojax search --out first": f"nemojax search --out first {CLI} --chip none"},
        long=True,
    ),
    "docs/tutorials/fewshotjax.md": Page(preparing.fewshot_tutorial, long=True),
}
