"""Heads in files, and behind a backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import fewshotjax as fs

CONFIG = fs.RepMetConfig(modes=2, embedding=4, learn_sigma=True)
OBJECTIVE = fs.repmet_objective(CONFIG)


def head():
    return OBJECTIVE.init(jax.random.key(0), 6, 3)


def test_a_head_survives_its_file(tmp_path):
    fs.save_head(tmp_path / "head.safetensors", head())
    found = fs.load_head(tmp_path / "head.safetensors", OBJECTIVE, 6, 3)
    jax.tree.map(np.testing.assert_array_equal, head(), found)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    fs.save_head(path, head())
    for objective, width, classes, message in (
        (OBJECTIVE, 7, 3, "head/Dense_0/kernel' is float32 of shape"),
        (OBJECTIVE, 6, 4, "modes' is float32 of shape"),
        (fs.softmax_objective(), 6, 3, "missing for this objective .*: bias, kernel"),
        (fs.repmet_objective(fs.RepMetConfig(modes=2, embedding=4)), 6, 3, "unexpected .*: log_sigma"),
    ):
        with pytest.raises(ValueError, match=message):
            fs.load_head(path, objective, width, classes)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"is no \.safetensors file, or damaged"):
        fs.load_head(path, OBJECTIVE, 6, 3)
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(1)}, {"format": "other"}))
    with pytest.raises(ValueError, match="is no file of save_head"):
        fs.load_head(path, OBJECTIVE, 6, 3)
    with pytest.raises(ValueError, match="tensor 'a/b' holds NaN or infinite values"):
        fs.save_head(path, {"a": {"b": jnp.array([jnp.nan])}})


def test_features_behind_a_head_are_its_embeddings():
    flat = fs.from_function(lambda x: x.reshape(len(x), -1)[:, :6], fs.raw(4, 1), name="pixels")
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 4, 1)).astype(np.uint8)
    embedded = fs.with_head(flat, OBJECTIVE, head())
    assert embedded.width == 4
    expected = OBJECTIVE.embed(head(), flat(images))
    np.testing.assert_allclose(fs.features(embedded, images), expected, rtol=1e-5, atol=1e-6)
    model = fs.fit(embedded, fs.from_arrays(images[:4], [0, 0, 1, 1]))
    assert fs.predict(model, images[4:]).confidence.shape == (1,)
