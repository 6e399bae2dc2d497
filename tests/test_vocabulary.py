"""One vocabulary in all packages: the same words, in the same places, for the same things."""

import dataclasses
import importlib
import inspect
from types import ModuleType
from typing import Any

import pytest

PACKAGES = ("hwmodel", "egrljax", "nemojax", "fewshotjax")
CALLBACKS = {"callback", "callbacks", "progress", "on_step", "on_generation", "hook", "hooks"}
FOREIGN = {"load_chip", "load_model", "load_labelled", "load_images", "load_jax"}  # others write them, too


def public(package: str) -> dict[str, Any]:
    """Public objects by name, those of public submodules included."""
    module = importlib.import_module(package)
    found = {name: getattr(module, name) for name in module.__all__}
    for name, inner in list(found.items()):
        if isinstance(inner, ModuleType):
            own = {k: v for k, v in vars(inner).items() if not k.startswith("_")}
            own = {k: v for k, v in own.items() if getattr(v, "__module__", "").startswith(package)}
            found |= {f"{name}.{k}": v for k, v in own.items()}
    return found


def parameters(found: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return []


@pytest.mark.parametrize("package", PACKAGES)
def test_keys_come_first_where_they_must_be_given(package):
    """An optional one has a default, and a class that holds one is no function of it."""
    for name, found in public(package).items():
        if not inspect.isfunction(found):
            continue
        keys = [(i, p) for i, p in enumerate(parameters(found)) if p.name in ("key", "keys", "rng")]
        for place, key in keys:
            assert key.name != "rng", f"{package}.{name}: say key"
            assert place == 0 or key.default is not inspect.Parameter.empty, f"{package}.{name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_called_between_chunks_is_on_chunk(package):
    for name, found in public(package).items():
        if callable(found):
            assert not CALLBACKS & {p.name for p in parameters(found)}, f"{package}.{name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_dataclasses_are_frozen_and_configs_are_hashed_by_value(package):
    configs = 0
    for name, found in public(package).items():
        if not isinstance(found, type) or not dataclasses.is_dataclass(found):
            continue
        if found.__module__.startswith(package) and not hasattr(found, "init"):  # flax's modules have one
            assert found.__dataclass_params__.frozen, f"{package}.{name}"  # type: ignore[attr-defined]
        if name.endswith("Config"):
            configs += 1
            assert found() == found(), f"{package}.{name}"
            assert hash(found()) == hash(found()), f"{package}.{name}"
    assert configs or package == "hwmodel"


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_saved_can_be_loaded(package):
    names = set(public(package))
    for name in names:
        start, _, rest = name.rpartition(".")[2].partition("_")
        prefix = name.removesuffix(f"{start}_{rest}")
        if start in ("save", "load") and name.rpartition(".")[2] not in FOREIGN:
            other = f"{prefix}{'load' if start == 'save' else 'save'}_{rest}"
            assert other in names, f"{package}.{name} without {other}"


@pytest.mark.parametrize("package", PACKAGES)
def test_to_json_writes_a_file_and_as_dict_gives_the_values(package):
    met = 0
    for name, found in public(package).items():
        if not isinstance(found, type):
            continue
        for word, wanted in (("to_json", ["path"]), ("as_dict", [])):
            if hasattr(found, word):
                given = [p for p in parameters(getattr(found, word)) if p.kind is not p.KEYWORD_ONLY]
                assert [p.name for p in given if p.name != "self"] == wanted, f"{package}.{name}.{word}"
                met += 1
    assert met or package == "egrljax"


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_progress_is_an_on_chunk(package):
    """hwmodel has nothing that takes long enough."""
    line = importlib.import_module(package).progress()
    assert callable(line)
    line.close()
