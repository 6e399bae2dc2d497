"""The public names exist, and importing the packages computes nothing."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("hwmodel", "egrljax", "nemojax", "fewshotjax")
EXTRAS = {
    "torch",
    "onnx",
    "onnxruntime",
    "grain",
    "h5py",
    "keras",
    "qwix",
    "equinox",
    "sklearn",
    "skimage",
    "pymoo",
    "beartype",
    "hypothesis",
    "psutil",
    "matplotlib.pyplot",
}


def exported(package: str) -> list[str]:
    """Names of the package's stub, each as `x as x`."""
    source = Path(importlib.import_module(package).__file__ or "").with_suffix(".pyi")
    names = []
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1
            for alias in node.names:
                assert alias.asname == alias.name, f"{package}: write `{alias.name} as {alias.name}`"
                names.append(alias.name)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_once_and_explained(package):
    module, names = importlib.import_module(package), exported(package)
    assert module.__doc__
    assert sorted(names) == sorted(module.__all__) == dir(module)
    assert len(set(names)) == len(names)
    for name in names:
        assert not name.startswith("_")
        public = getattr(module, name)
        explained = isinstance(public, dict | tuple) or getattr(public, "__doc__", None)
        assert explained, f"{package}.{name} has no docstring"


def test_the_main_names_of_the_documentation():
    wanted = {
        "hwmodel": "trace model_ratio bit_operations_ratio Workload Operation Point",
        "nemojax": "quantize classification fidelity search nemo Evaluator Front BitSpace QuantizerConfig "
        "efficientnet_lite0 load_bits save_bits progress plot_front",
        "fewshotjax": "fit predict folder backbone plugin_backbone features from_function without_layer "
        "Preprocess evaluate compare repmet prototypes Method Tuning through register draw_many "
        "save_episodes load_episodes RepMetConfig init_repmet posterior embedding_loss fit_representatives "
        "kmeans_refresh classify train train_head save_head load_head with_head save_backbone load_backbone "
        "save_classifier load_classifier retrieval progress detector detect new_classes DeltaEncoder "
        "train_delta synthesize save_delta load_delta delta_encoder",
    }
    for package, names in wanted.items():
        assert set(names.split()) <= set(exported(package))


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_quick_since_it_imports_nothing_else(package):
    done = run(
        f"import sys, {package}; print(sorted({{'jax', 'numpy', 'flax', 'matplotlib'}} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr


def test_functions_keep_their_names_when_modules_of_the_same_names_are_imported():
    code = """
import egrljax.place, fewshotjax.kmeans, hwmodel.problem, nemojax.search
import egrljax, fewshotjax, hwmodel, nemojax
print([callable(f) for f in (egrljax.place, fewshotjax.kmeans, hwmodel.problem, nemojax.search)])
"""
    done = run(code)
    assert done.stdout == "[True, True, True, True]\n", done.stderr


@pytest.mark.parametrize(
    ("package", "wish"), [("nemojax", "search"), ("egrljax", "place"), ("fewshotjax", "fit")]
)
def test_matplotlib_comes_with_the_first_picture(package, wish):
    done = run(f"import sys, {package}; {package}.{wish}; print('matplotlib' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


IMPORT_ALL = """
import importlib, sys
import evosax.algorithms  # it makes arrays at import itself
import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
before = len(jax.live_arrays())
for name in {modules!r}:
    importlib.import_module(name)
print(len(jax.live_arrays()) - before, [event for event in compiled if "compile" in event])
print(sorted({extras!r} & set(sys.modules)))
"""


def test_importing_every_module_computes_nothing_and_needs_no_extra():
    modules = [
        info.name
        for package in PACKAGES
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        if not info.name.endswith(".__main__")
    ]
    assert len(modules) > 20
    code = IMPORT_ALL.format(modules=[*PACKAGES, *modules], extras=EXTRAS)
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0 []", "[]"]
