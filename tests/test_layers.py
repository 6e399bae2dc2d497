"""Imports go one way: hwmodel <- egrljax <- nemojax, and fewshotjax imports none of them."""

import ast
from pathlib import Path

import pytest

import egrljax
import fewshotjax
import hwmodel
import nemojax

ALLOWED: dict[str, set[str]] = {
    "hwmodel": set(),
    "egrljax": {"hwmodel"},
    "nemojax": {"hwmodel", "egrljax"},
    "fewshotjax": set(),
}
PACKAGES = {module.__name__: module for module in (hwmodel, egrljax, nemojax, fewshotjax)}


def imports(source: str) -> set[str]:
    """Dotted names of the modules that a file imports absolutely."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def sources(package: str) -> list[Path]:
    folder = Path(PACKAGES[package].__file__ or "").parent
    return sorted([*folder.rglob("*.py"), *folder.rglob("*.pyi")])


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_follow_the_layers(package):
    files = sources(package)
    assert files, f"no source found for {package}"
    for file in files:
        ours = {name.split(".")[0] for name in imports(file.read_text())} & set(ALLOWED)
        assert ours <= ALLOWED[package] | {package}, f"{file} imports {ours}"


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_uses_only_the_public_names_of_another(package):
    for file in sources(package):
        inside = {n for n in imports(file.read_text()) if "." in n and n.split(".")[0] in ALLOWED}
        assert {n.split(".")[0] for n in inside} <= {package}, f"{file} reaches inside {inside}"


def test_the_checker_sees_an_import():
    assert imports("import nemojax.cli\nfrom egrljax import x\nfrom . import y") == {"nemojax.cli", "egrljax"}
