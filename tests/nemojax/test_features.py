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
