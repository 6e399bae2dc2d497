"""The tests run against the source and, in `make test-wheel`, some against the wheel that users install."""

import os
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import egrljax
import fewshotjax
import hwmodel
import nemojax
from fewshotjax.plugins import installed_backbones


def test_the_tested_packages_are_the_ones_meant():
    installed = os.environ.get("FRUGALJAX_INSTALLED")
    expected = Path(installed).resolve() if installed else Path(__file__).resolve().parents[1]
    for package in (hwmodel, egrljax, nemojax, fewshotjax):
        assert Path(package.__file__).resolve().parent.parent == expected


def test_what_is_not_python_is_shipped():
    for package in (hwmodel, egrljax, nemojax, fewshotjax):
        assert files(package).joinpath("py.typed").is_file()
    assert files(nemojax).joinpath("schemas/front.schema.json").is_file()
    assert files(hwmodel).joinpath("schemas/chip.schema.json").is_file()
    assert files(hwmodel).joinpath("chips/presets/template.toml").is_file()


def test_the_console_scripts_are_declared():
    scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
    for package in ("hwmodel", "egrljax", "nemojax", "fewshotjax"):
        assert scripts[package] == f"{package}.cli:main"
    assert version("frugaljax").count(".") == 2


def test_the_backbone_of_nemojax_is_offered_to_fewshotjax():
    offered = {e.name: e for e in entry_points(group="fewshotjax.backbones")}
    assert offered["efficientnet_lite0"].load() is nemojax.efficientnet_lite0_features
    assert "efficientnet_lite0" in installed_backbones()
