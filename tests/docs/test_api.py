"""docs/api.md: what is public in a package is in the reference."""

import importlib
import inspect
import re

import pytest

from .reading import ROOT

MODULE = re.compile(
    r"^\.\. automodule:: (?P<name>\S+)\n(?:   :members: (?P<members>[^\n]+)\n)?", re.MULTILINE
)


def documented(text: str) -> dict[str, set[str] | None]:
    """Module -> names that the page asks for; None: all that the module defines."""
    found = {}
    for entry in MODULE.finditer(text):
        members = entry["members"]
        found[entry["name"]] = None if members is None else set(members.replace(" ", "").split(","))
    return found


def is_documented(name: str, found: object, modules: dict[str, set[str] | None]) -> bool:
    own = getattr(found, "__module__", None)
    if own in modules and modules[own] is None:
        return True
    return any(members is not None and name in members for members in modules.values())


@pytest.mark.parametrize("package", ["hwmodel", "egrljax", "nemojax", "fewshotjax"])
def test_every_public_function_and_class_is_in_the_reference(package):
    modules = documented((ROOT / "docs" / "api.md").read_text())
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    wanted = {
        name: found for name, found in public.items() if inspect.isfunction(found) or inspect.isclass(found)
    }
    assert len(wanted) > 20
    missing = sorted(
        f"{found.__module__}.{name}"
        for name, found in wanted.items()
        if found.__module__.startswith(package) and not is_documented(name, found, modules)
    )
    assert not missing, f"docs/api.md has no entry for {missing}"


def test_a_name_that_is_left_out_is_found():
    modules = documented(".. automodule:: a.b\n   :members: one, two\n.. automodule:: a.c\n")
    assert modules == {"a.b": {"one", "two"}, "a.c": None}
    one, three = (type(name, (), {"__module__": "a.b"}) for name in ("one", "three"))
    assert is_documented("one", one, modules)
    assert not is_documented("three", three, modules)
    assert is_documented("four", type("four", (), {"__module__": "a.c"}), modules)
