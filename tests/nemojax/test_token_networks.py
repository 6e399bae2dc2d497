"""A search on a network that reads token ids under a mask, from calibration to the front's file."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from hwmodel import model_ratio
from nemojax.quantizable import quantizable

WORDS, DIM, HEADS, CLASSES = 30, 8, 2, 3


class Reader(nn.Module):
    """One layer of attention over embeddings of words and places, the mean of the tokens, a classifier."""

    @nn.compact
    def __call__(self, inputs):
        ids, mask = inputs["ids"], inputs["mask"]
        places = self.param("places", nn.initializers.normal(0.5), (16, DIM))
        x = nn.Embed(WORDS, DIM, name="words")(ids) + places[: ids.shape[1]][None]
        attention = nn.MultiHeadDotProductAttention(HEADS, name="attention")
        x = nn.LayerNorm(name="norm")(x + attention(x, mask=(mask > 0)[:, None, None]))
        weights = (mask / jnp.sum(mask, 1, keepdims=True)).astype(jnp.float32)
        return nn.Dense(CLASSES, name="classifier")(jnp.einsum("bl,bld->bd", weights, x))


@pytest.fixture(scope="module")
def network():
    model = Reader()
    return quantizable(model, model.init(jax.random.key(0), sentences(0, 2)), name="reader")


def sentences(seed, count, length=6):
    rng = np.random.default_rng(seed)
    mask = np.arange(length) < rng.integers(1, length + 1, (count, 1))
    return {"ids": rng.integers(0, WORDS, (count, length)), "mask": mask.astype(np.int32)}


@pytest.mark.long
def test_padding_changes_nothing(network):
    """Which also says that the mask arrives: the ids behind it are drawn anew."""
    quantized = nemo.quantize(network, sentences(0, 10))
    inputs = sentences(1, 7)
    other = inputs["ids"] * inputs["mask"] + (1 - inputs["mask"]) * 7
    bits = jnp.full(len(quantized.workload.points), 6)
    found, again = (
        quantized.quantized_logits(bits, {"ids": ids, "mask": inputs["mask"]})
        for ids in (inputs["ids"], other)
    )
    np.testing.assert_allclose(found, again, atol=1e-6)
    np.testing.assert_allclose(quantized.logits(inputs), network.apply(network.params, inputs), atol=1e-5)
    assert np.abs(found - quantized.logits(inputs)).max() > 1e-4


@pytest.mark.slow
def test_a_search(network):
    quantized = nemo.quantize(network, sentences(0, 10))
    names = quantized.workload.point_names
    assert names[:2] == ("words.weight", "words.activation")
    inputs = sentences(2, 40)
    labels = np.asarray(network.apply(network.params, inputs)).argmax(1)
    task = nemo.classification(quantized, inputs, labels, top_k=1)
    found = nemo.search(jax.random.key(0), task, budget=60, config=nemo.preset("guided", population=10))
    front = found.front
    assert front.names == names
    assert float(task.full_precision()[0]) == 0.0
    assert len(front) > 3
    twos, eights = (float(model_ratio(quantized.workload, jnp.full(len(names), b))) for b in (2, 8))
    assert twos <= front.costs[:, 1].min() < eights
    again = task.on(sentences(3, 20), labels[:20])
    assert np.isfinite(np.asarray(again.costs(jnp.asarray(front.bits[:2])))).all()
