"""Regions of many images chunk by chunk, and detectors in files."""

import json
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from fewshotjax import Preprocess, RepMetConfig
from fewshotjax.detection import AnchorConfig, pyramid_plugins
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.detector import init_detector
from fewshotjax.detection.detector_files import load_detector, save_detector
from fewshotjax.detection.pyramids import pyramid, pyramid_from_function
from fewshotjax.detection.regions import box_features, chunk_of, find_regions, find_regions_and_boxes

HEAD = RepMetConfig(modes=2, embedding=5, posterior="softmax", background=True)
SMALL = DetectorConfig(
    channels=4,
    anchors=AnchorConfig(strides=(4, 8)),
    before_nms=50,
    proposals=20,
    proposal_nms=0.2,
    roi_size=2,
    hidden=(6,),
    head=HEAD,
)
TRACES = []


def means(params, x):
    TRACES.append(x.shape)
    found = []
    for stride in (4, 8):
        cells = x.reshape(len(x), x.shape[1] // stride, stride, x.shape[2] // stride, stride, 3)
        found.append(cells.mean((2, 4)) @ params)
    return tuple(found)


WEIGHTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (7, 32, 48, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def small():
    found = pyramid_from_function(means, Preprocess(32), jnp.asarray(WEIGHTS), strides=(4, 8))
    return init_detector(jax.random.key(1), found, SMALL, ("a", "b"))


@pytest.fixture(scope="module")
def regions(small):
    """In chunks of 3: the last one has one image and is filled up."""
    told = []
    before = len(TRACES)
    found = find_regions(small, IMAGES, chunk=3, on_chunk=told.append)
    assert TRACES[before:] == [(3, 32, 48, 3)]
    assert [(one.done, one.total) for one in told] == [(3, 7), (6, 7), (7, 7)]
    assert all(one.seconds > 0 for one in told)
    return found


def test_regions_are_whole_and_unused_ones_are_zero(regions):
    assert regions.boxes.shape == regions.proposals.shape == (7, 20, 4)
    assert regions.features.shape == (7, 20, 6)
    counts = regions.mask.sum(axis=1)
    assert counts.min() > 0
    assert counts.min() < 20
    for field in (regions.boxes, regions.proposals, regions.features, regions.objectness):
        assert isinstance(field, np.ndarray)
        assert np.isfinite(field).all()
        assert not field[~regions.mask].any()
    assert (np.diff(regions.objectness, axis=1) <= 0).all()
    limits = np.array([48, 32, 48, 32])
    for boxes in (regions.boxes, regions.proposals):
        assert (boxes >= 0).all()
        assert (boxes <= limits).all()


def test_the_size_of_chunks_changes_nothing(small, regions):
    before = len(TRACES)
    found = find_regions(small, IMAGES)
    assert TRACES[before:] == [(8, 32, 48, 3)]
    np.testing.assert_array_equal(found.mask, regions.mask)
    for one, other in zip(found, regions, strict=True):
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), atol=1e-4)


def test_chunks_are_larger_on_a_gpu(monkeypatch):
    assert [chunk_of(*size) for size in ((64, 64), (128, 256), (320, 320))] == [16, 2, 1]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [chunk_of(*size) for size in ((320, 320), (4096, 4096))] == [16, 1]


def test_a_net_that_is_built_again_is_not_compiled_again(small, regions):
    again = replace(small, net=replace(small.net), params=jax.tree.map(lambda leaf: leaf * 1, small.params))
    before = len(TRACES)
    found = find_regions(again, IMAGES[:2], chunk=3)
    assert TRACES[before:] == []
    np.testing.assert_allclose(found.features, regions.features[:2], atol=1e-5)


def test_features_of_given_boxes_are_those_of_the_regions(small, regions):
    shown = regions.mask.copy()
    shown[:, 3] = False
    found = box_features(small, IMAGES, regions.proposals, shown, chunk=7)
    np.testing.assert_allclose(found[shown], regions.features[shown], atol=1e-4)
    assert not found[~shown].any()
    both, again = find_regions_and_boxes(small, IMAGES, regions.proposals, shown, chunk=7)
    np.testing.assert_allclose(again, found, atol=1e-5)
    for mine, theirs in zip(both, regions, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    none = np.zeros((7, 0))
    assert box_features(small, IMAGES, none[..., None].repeat(4, -1), none.astype(bool)).shape == (7, 0, 6)


def test_no_images_have_no_regions(small):
    found = find_regions(small, IMAGES[:0])
    assert [field.shape for field in found] == [(0, 20, 4), (0, 20, 4), (0, 20, 6), (0, 20), (0, 20)]


def test_what_cannot_be_is_told(small, as_users_have_it):
    with pytest.raises(ValueError, match=r"images are float64 of shape \(7, 32, 48, 3\): give uint8"):
        find_regions(small, IMAGES * 1.0)
    with pytest.raises(ValueError, match=r"give uint8 \(N, H, W, 3\)"):
        find_regions(small, IMAGES[..., :1])
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        find_regions(small, IMAGES, chunk=0)
    with pytest.raises(ValueError, match=r"boxes and shown must be \(N, G, 4\) and \(N, G\) for 7 images"):
        box_features(small, IMAGES, np.zeros((6, 2, 4)), np.ones((6, 2), bool))
    for part in ("trunk", "rpn", "pyramid"):
        nan = jax.tree.map(lambda leaf: leaf * jnp.nan, small.params[part])
        with pytest.raises(ValueError, match="gives NaN or infinite features for image 0"):
            find_regions(replace(small, params={**small.params, part: nan}), IMAGES[:3], chunk=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    found = pyramid("resnet18_pyramid", key=jax.random.key(0), width=0.0625, norm="frozen", mean=99.0)
    head = replace(SMALL.head, learn_sigma=True)  # a tensor without a dimension
    config = replace(SMALL, anchors=AnchorConfig(), roi="deformable", hardest=None, head=head)
    path = tmp_path_factory.mktemp("detector") / "d.safetensors"
    detector = init_detector(jax.random.key(2), found, config, ("cat", "dog", "été"))
    save_detector(path, detector)
    return path, detector


def test_a_saved_detector_comes_back_bit_for_bit(saved):
    path, detector = saved
    found = load_detector(path)
    assert found.net == detector.net
    assert hash(found.net) == hash(detector.net)
    assert (found.classes, found.name, found.options) == (
        ("cat", "dog", "été"),
        "resnet18_pyramid",
        {"width": 0.0625, "norm": "frozen"},
    )
    jax.tree.map(np.testing.assert_array_equal, found.params, detector.params)
    kinds = [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(detector.params)]
    assert kinds == [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(found.params)]


def rewritten(path, tmp_path, change):
    """The file with tensors, metadata and what the metadata tell changed."""
    with safetensors.safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    told = json.loads(metadata["detector"])
    change(tensors, metadata, told)
    if "detector" in metadata:
        metadata["detector"] = json.dumps(told)
    out = tmp_path / "changed.safetensors"
    safetensors.numpy.save_file(tensors, out, metadata)
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m, d: m.update(format="fewshotjax backbone"), "is no file of save_detector"),
        (lambda t, m, d: m.update(schema="2"), "has schema version 2, this library reads 1"),
        (lambda t, m, d: m.pop("detector"), "is damaged: save it again with save_detector"),
        (lambda t, m, d: d["config"].pop("head"), "is damaged: save it again with save_detector"),
        (lambda t, m, d: d["config"].update(colour=3), "is damaged: save it again with save_detector"),
        (lambda t, m, d: d["config"].update(channels=0), "channels must be a whole number"),
        (lambda t, m, d: d.update(name="vgg"), "name must be one of resnet18_pyramid"),
        (lambda t, m, d: d.update(classes=["cat", "cat"]), "different names"),
        (
            lambda t, m, d: d.update(classes=["cat", "dog"]),
            r"tensor 'repmet/modes' is float32 of shape \(3, 2",
        ),
        (
            lambda t, m, d: d["options"].update(norm="group"),
            "tensors are unexpected for its config: pyramid/b",
        ),
        (lambda t, m, d: t.pop("rpn/conv/bias"), "1 tensors are missing for its config: rpn/conv/bias"),
        (lambda t, m, d: t.update(x=np.zeros(1, np.float32)), "1 tensors are unexpected for its config: x"),
        (
            lambda t, m, d: t.update({"box/bias": np.zeros(4)}),
            "tensor 'box/bias' is float64 .* needs",
        ),
        (
            lambda t, m, d: t.update({"box/bias": np.full(4, np.nan, np.float32)}),
            "tensor 'box/bias' holds NaN",
        ),
    ],
)
def test_files_that_are_wrong_are_refused(saved, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_detector(rewritten(saved[0], tmp_path, change))


def test_no_file_and_a_damaged_one(saved, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_detector(tmp_path / "none.safetensors")
    damaged = tmp_path / "half.safetensors"
    damaged.write_bytes(saved[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is no \.safetensors file, or damaged"):
        load_detector(damaged)


def test_what_could_not_be_loaded_is_not_saved(small, saved, tmp_path):
    with pytest.raises(ValueError, match=r"'function' is none of resnet18_pyramid, .* and no plugin"):
        save_detector(tmp_path / "x.safetensors", small)
    _, detector = saved
    for bias, message in (
        (jnp.full(4, jnp.nan), "tensor 'box/bias' holds NaN"),
        (jnp.zeros(4, jnp.bfloat16), "tensor 'box/bias' is bfloat16"),
    ):
        box = {**detector.params["box"], "bias": bias}
        with pytest.raises(ValueError, match=message):
            save_detector(
                tmp_path / "x.safetensors", replace(detector, params={**detector.params, "box": box})
            )
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_plugin_s_pyramid_is_stored_by_name_where_it_is_frozen(monkeypatch, tmp_path, frozen):
    given = {
        **{"name": "means", "function": by_name, "params": {"w": WEIGHTS}, "channels": 3, "mean": 9.0},
        **{"scale": 2.0, "strides": (4, 8), "widths": (4, 4), "pixels": 96},
    }
    monkeypatch.setitem(sys.modules, "a_package", SimpleNamespace(means=lambda: given))
    entries = [EntryPoint("means", "a_package:means", pyramid_plugins.GROUP)]
    monkeypatch.setattr(pyramid_plugins, "entry_points", lambda **what: EntryPoints(entries).select(**what))
    found = pyramid_plugins.plugin_pyramid("means", frozen=frozen)
    assert found.preprocess.pixels == 96
    found = replace(found, preprocess=replace(found.preprocess, pixels=64))  # as of a training at that size
    detector, path = init_detector(jax.random.key(3), found, SMALL, ("a",)), tmp_path / "d.safetensors"
    save_detector(path, detector)
    again = load_detector(path)
    assert (again.net, again.options) == (detector.net, {"plugin": "means"})
    jax.tree.map(np.testing.assert_array_equal, again.params, detector.params)
    assert (b"pyramid/params" in path.read_bytes()) == (not frozen)
    given["params"] = {"w": WEIGHTS + 1}
    if frozen:
        with pytest.raises(ValueError, match="was trained on other weights of plugin means"):
            load_detector(path)
    else:
        np.testing.assert_array_equal(load_detector(path).params["pyramid"]["params"]["w"], WEIGHTS)
    entries.clear()
    with pytest.raises(ValueError, match="no pyramid 'means': none is installed"):
        load_detector(path)


def by_name(params, x):
    return means(params["w"], x)
