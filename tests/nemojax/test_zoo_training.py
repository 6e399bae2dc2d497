"""The image networks in training: statistics of batch norms, gradients."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.networks import mobilenet, resnet, resnet_members
from nemojax.networks.layers import Stage


def test_batch_norms_take_the_statistics_of_the_batch_in_training_and_remember_them():
    config = resnet.Config((1,), "basic", 4, stem="cifar", classes=3)
    model = resnet.ResNet(config)
    params = resnet_members.FAMILY.draw(jax.random.key(0), config)
    images = jax.random.normal(jax.random.key(1), (4, 6, 6, 3))
    train = jax.jit(lambda p, x: model.apply(p, x, train=True, mutable=["batch_stats"]))
    logits, updates = train(params, images)
    assert logits.shape == (4, 3)
    stem, layout = params["params"]["stem"]["kernel"], ("NHWC", "HWIO", "NHWC")
    y = np.asarray(jax.lax.conv_general_dilated(images, stem, (1, 1), "SAME", dimension_numbers=layout))
    found = updates["batch_stats"]["stem_bn"]
    np.testing.assert_allclose(found["mean"], 0.1 * y.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)
    still = jax.jit(model.apply)(params, images)
    assert np.abs(still - logits).max() > 1e-3  # running statistics are those of nobody's batch


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (mobilenet.FAMILY, mobilenet.Config(0.25, 5, stages=(Stage(1, 3, 1, 2, 32),))),
        (
            resnet_members.FAMILY,
            resnet.Config((1,), width=4, group_width=2, groups=2, stem="cifar", classes=5),
        ),
    ],
)
def test_a_gradient_reaches_every_parameter(family, config):
    model = family.module(config)
    params = family.draw(jax.random.key(2), config)
    images = jax.random.normal(jax.random.key(3), (4, 8, 8, 3))

    @jax.jit
    @jax.grad
    def gradient(learned):
        variables = {**params, "params": learned}
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

    for path, leaf in flax.traverse_util.flatten_dict(gradient(params["params"])).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
