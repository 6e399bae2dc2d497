"""A classifier as one function against the classifier itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs

SIDE = 4


@pytest.fixture(scope="module")
def embed():
    """A few sums of 4x4 images."""
    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE, 6)).astype(np.float32)
    return fs.from_function(
        lambda w, x: x.reshape(len(x), -1) @ w,
        fs.Preprocess(SIDE, channels=1, mean=100.0, scale=50.0),
        jnp.asarray(weights),
    )


def support(counts):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    images = rng.integers(0, 256, (len(labels), SIDE, SIDE, 1)).astype(np.uint8)
    files = tuple(f"{i}.png" for i in range(len(labels)))
    return fs.LabelledImages(images, labels, tuple("abcd"[: len(counts)]), files)


@pytest.mark.parametrize(("counts", "modes"), [((3, 3, 3), 1), ((4, 2, 1), 3), ((2, 2), 5)])
def test_softmax_of_its_scores_are_the_classifiers_probabilities(embed, counts, modes):
    classifier = fs.fit(embed, support(counts), modes=modes, sigma=0.4)
    queries = np.random.default_rng(2).integers(0, 256, (7, SIDE, SIDE, 1)).astype(np.uint8)
    apply, params = fs.as_function(classifier)
    scores = jax.jit(apply)(params, embed.preprocess.normalize(jnp.asarray(queries)))
    assert scores.shape == (7, len(counts))
    wanted = fs.predict(classifier, queries).log_probabilities
    np.testing.assert_allclose(jax.nn.log_softmax(scores, axis=1), wanted, rtol=2e-5, atol=2e-5)


def test_an_equal_classifier_compiles_nothing_anew(embed):
    one, other = (fs.as_function(fs.fit(embed, support((2, 2)), modes=1, sigma=s)) for s in (0.3, 0.6))
    assert one.apply == other.apply
    assert hash(one.apply) == hash(other.apply)
    assert jax.tree.structure(one.params) == jax.tree.structure(other.params)


def test_what_is_no_such_function_is_refused(embed):
    features = np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32)
    with pytest.raises(ValueError, match="of features: give the backbone"):
        fs.as_function(fs.fit_features(features, [0, 0, 1, 1]))
    with pytest.raises(ValueError, match="backbone gives 6 features, the classifier is of 5"):
        fs.as_function(fs.fit_features(features[:, :5], [0, 0, 1, 1]), embed)
    with pytest.raises(ValueError, match="method must be the default, 'repmet', got ridge"):
        fs.as_function(fs.fit(embed, support((2, 2)), method="ridge"))


def test_a_classifier_of_features_takes_the_backbone_that_made_them(embed):
    shown = support((2, 3))
    of_images = fs.as_function(fs.fit(embed, shown, sigma=0.4))
    of_features = fs.as_function(fs.fit_features(embed(shown.images), shown.labels, sigma=0.4), embed)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), of_images.params, of_features.params
    )
