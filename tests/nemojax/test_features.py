"""Features of a network for other packages: what the classifier is given, in plain values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax import features
from nemojax.lowered import lowered


@pytest.fixture
def offered(small_network, monkeypatch):
    network = small_network()
    monkeypatch.setattr(features, "efficientnet_lite0", lambda: network)
    features.efficientnet_lite0_features.cache_clear()
    yield network, features.efficientnet_lite0_features()
    features.efficientnet_lite0_features.cache_clear()


def test_the_classifier_makes_its_logits_of_them(offered):
    network, given = offered
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    found = jax.jit(given["function"])(given["params"], images)
    assert found.shape == (2, given["width"])
    layer = network.params["params"]["classifier"]
    logits = jax.jit(network.apply)(network.params, images)
    np.testing.assert_allclose(found @ layer["kernel"] + layer["bias"][None], logits, rtol=1e-4, atol=1e-4)


def test_lowered_they_are_the_same(offered):
    network, _ = offered
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    plain = features.features_of(network)
    cpu = jax.jit(lowered(plain, "cpu"))(network.params, images)
    np.testing.assert_allclose(cpu, jax.jit(plain)(network.params, images), rtol=1e-4, atol=1e-5)
    text = str(jax.make_jaxpr(lowered(plain, "cpu"))(network.params, images))
    assert "feature_group_count=1" in text
    assert not any(f"feature_group_count={n}\n" in text for n in range(2, 65))


def test_all_else_is_plain(offered):
    network, given = offered
    assert given["params"] is network.params
    assert (given["name"], given["pixels"], given["channels"], given["trained_on"]) == (
        *("small", 16, 3),
        "ImageNet",
    )
    assert (given["mean"], given["scale"]) == (127.0, 128.0)
    assert given["params"]["params"]["classifier"]["kernel"].shape == (given["width"], 1000)
    assert features.efficientnet_lite0_features() is given
    with pytest.raises(TypeError):
        given["width"] = 3
    assert jnp.asarray(given["mean"]).dtype == jnp.float32


@pytest.fixture
def two_strides(small_network, monkeypatch):
    """The small network has blocks at strides 2, 4 and 4."""
    network = small_network()
    monkeypatch.setattr(features, "efficientnet_lite0", lambda: network)
    monkeypatch.setattr(features, "STRIDES", (2, 4))
    features.efficientnet_lite0_pyramid.cache_clear()
    yield network
    features.efficientnet_lite0_pyramid.cache_clear()


def test_maps_are_those_before_each_halving(two_strides):
    network, images = two_strides, jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    plain = features.maps_of(network)
    found = jax.jit(lowered(plain, "cpu"))(network.params, images)
    assert [m.shape for m in found] == [(2, 8, 12, 8), (2, 4, 6, 8)]
    # flax's own record of what modules give is the oracle.
    record = jax.jit(lambda params, x: network.apply(params, x, capture_intermediates=True)[1])
    seen = record(network.params, images)["intermediates"]
    for one, name in zip(found, ("blocks_0", "blocks_2"), strict=True):
        np.testing.assert_allclose(one, seen[name]["__call__"][0], rtol=1e-4, atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="images are 16x18: both sides must be multiples of 4"):
        plain(network.params, images[:, :, :18])


def test_the_pyramid_is_plain(two_strides):
    given = features.efficientnet_lite0_pyramid()
    assert given["widths"] == (8, 8)
    assert given["strides"] == (2, 4)
    assert given["params"] is two_strides.params
    assert (given["name"], given["pixels"], given["channels"], given["trained_on"]) == (
        *("small", 16, 3),
        "ImageNet",
    )
    assert features.efficientnet_lite0_pyramid() is given
