"""The encoder of tokens against NumPy, on tensors with Hugging Face's names; MiniLM's real weights."""

import math
import runpy
from dataclasses import replace
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nemojax.calibration import QuantizerConfig
from nemojax.networks import bert_base, minilm_l6
from nemojax.networks.bert import FAMILY, OUTPUTS, Bert, Config
from nemojax.quantized import QuantizedNetwork, quantize

TINY = Config(
    layers=2, hidden=12, heads=3, feed_forward=20, vocabulary=30, positions=9, segments=2, classes=4
)


def tensors(seed: int, config: Config = TINY) -> dict[str, np.ndarray]:
    """Hugging Face's names and layouts, written out; layer norms are away from the identity."""
    rng = np.random.default_rng(seed)
    h, f = config.hidden, config.feed_forward
    out = {"embeddings.position_ids": np.arange(config.positions)[None]}

    def norm(name):
        out[f"{name}.weight"], out[f"{name}.bias"] = rng.uniform(0.5, 2, h), rng.normal(0, 0.5, h)

    def dense(name, o, i):
        out[f"{name}.weight"], out[f"{name}.bias"] = rng.normal(0, 0.5, (o, i)), rng.normal(0, 0.5, o)

    rows = {"word": config.vocabulary, "position": config.positions, "token_type": config.segments}
    for name, count in rows.items():
        out[f"embeddings.{name}_embeddings.weight"] = rng.standard_normal((count, h))
    norm("embeddings.LayerNorm")
    for i in range(config.layers):
        b = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            dense(f"{b}.attention.self.{part}", h, h)
        dense(f"{b}.attention.output.dense", h, h)
        norm(f"{b}.attention.output.LayerNorm")
        dense(f"{b}.intermediate.dense", f, h)
        dense(f"{b}.output.dense", h, f)
        norm(f"{b}.output.LayerNorm")
    dense("pooler.dense", h, h)
    dense("classifier", config.classes, h)
    return {name: array.astype(np.float32) for name, array in out.items()}


def numpy_bert(t, config, ids, mask, segments, output):
    """In float64, one sample and one head at a time."""
    t = {name: array.astype(np.float64) for name, array in t.items()}
    erf = np.vectorize(math.erf)

    def dense(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * t[f"{name}.weight"] + t[f"{name}.bias"]

    out = []
    width = config.hidden // config.heads
    for tokens, seen, kinds in zip(ids, mask.astype(bool), segments, strict=True):
        x = t["embeddings.word_embeddings.weight"][tokens]
        x = x + t["embeddings.position_embeddings.weight"][: len(tokens)]
        x = norm(x + t["embeddings.token_type_embeddings.weight"][kinds], "embeddings.LayerNorm")
        for i in range(config.layers):
            b = f"encoder.layer.{i}"
            q, k, v = (dense(x, f"{b}.attention.self.{part}") for part in ("query", "key", "value"))
            context = np.zeros_like(x)
            for head in range(config.heads):
                part = slice(head * width, (head + 1) * width)
                scores = q[:, part] @ k[seen, part].T / math.sqrt(width)  # hidden tokens are left out
                weights = np.exp(scores - scores.max(1, keepdims=True))
                context[:, part] = weights / weights.sum(1, keepdims=True) @ v[seen, part]
            x = norm(x + dense(context, f"{b}.attention.output.dense"), f"{b}.attention.output.LayerNorm")
            y = dense(x, f"{b}.intermediate.dense")
            y = y * (1 + erf(y / math.sqrt(2))) / 2
            x = norm(x + dense(y, f"{b}.output.dense"), f"{b}.output.LayerNorm")
        mean, pooled = x[seen].mean(0), np.tanh(dense(x[0], "pooler.dense"))
        results = {
            "sequence": x,
            "pooled": pooled,
            "mean": mean,
            "unit_mean": mean / np.sqrt((mean**2).sum()),
        }
        out.append(dense(pooled, "classifier") if output == "classes" else results[output])
    return np.stack(out)


def batch(seed: int, config: Config = TINY, length: int = 7, count: int = 3):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, count)
    lengths[0] = length
    return {
        "ids": rng.integers(0, config.vocabulary, (count, length)).astype(np.int32),
        "mask": (np.arange(length) < lengths[:, None]).astype(np.int32),
        "segments": rng.integers(0, config.segments, (count, length)).astype(np.int32),
    }


def of(output: str) -> Config:
    return replace(TINY, output=output)


@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_equals_numpy(output):
    small = replace(TINY, output=output, layers=2 if output == "sequence" else 1)
    t, inputs = tensors(0, small), batch(1)
    config, params = FAMILY.convert(t, small)
    found = np.asarray(jax.jit(Bert(config).apply)(params, inputs))
    want = numpy_bert(t, small, **inputs, output=output)
    assert found.shape == want.shape
    shown = inputs["mask"].astype(bool) if output == "sequence" else slice(None)  # filling is anything
    np.testing.assert_allclose(found[shown], want[shown], atol=1e-5 * np.abs(want).max())


def test_segments_default_to_the_first_and_filling_changes_nothing():
    _, params = FAMILY.convert(tensors(2), of("pooled"))
    run = jax.jit(Bert(of("pooled")).apply)
    inputs = batch(3)
    plain = {"ids": inputs["ids"], "mask": inputs["mask"]}
    found = run(params, plain)
    np.testing.assert_allclose(
        found, run(params, {**plain, "segments": np.zeros_like(plain["ids"])}), atol=1e-6
    )
    other = np.where(plain["mask"] > 0, plain["ids"], 11).astype(np.int32)
    np.testing.assert_array_equal(found, run(params, {**plain, "ids": other}))


def test_names_of_older_files_and_of_models_around_the_encoder():
    plain = {n: a for n, a in tensors(4).items() if not n.startswith("classifier")}
    config, want = FAMILY.convert(plain, of("pooled"))
    older = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): array
        for name, array in plain.items()
    }
    older |= {"cls.predictions.bias": np.zeros(30), "cls.seq_relationship.weight": np.zeros((2, 12))}
    _, found = FAMILY.convert(older, config)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    with pytest.raises(ValueError, match=r"Hugging Face names them: 2 tensors are missing: classifier"):
        FAMILY.convert(older, of("classes"))
    _, pooled_away = FAMILY.convert(plain, of("mean"))  # a pooler that nothing needs is not read
    assert "pooler" not in pooled_away["params"]
    with pytest.raises(
        ValueError, match=r"'position_embeddings|position_embeddings.weight' has shape \(9, 12\)"
    ):
        FAMILY.convert(plain, replace(TINY, output="pooled", positions=8))


def test_wrong_configs_and_inputs():
    with pytest.raises(ValueError, match="heads must divide hidden=12, got 5"):
        replace(TINY, heads=5)
    with pytest.raises(ValueError, match=r"output must be one of 'sequence', .* got 'cls'"):
        Config(output="cls")
    with pytest.raises(ValueError, match="must have 'ids' and 'mask', got 'ids'"):
        jax.eval_shape(Bert(TINY).init, jax.random.key(0), {"ids": batch(0)["ids"]})
    with pytest.raises(ValueError, match="10 tokens a sample, of which the network takes 9"):
        jax.eval_shape(Bert(TINY).init, jax.random.key(0), batch(0, length=10))


def test_a_gradient_reaches_every_parameter():
    config = replace(TINY, output="classes", layers=1)
    params = FAMILY.draw(jax.random.key(0), config)
    kernel = params["params"]["layers_0"]["ffn1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.2)  # BERT's own deviation
    inputs = jax.tree.map(jnp.asarray, batch(5, count=6))

    @jax.jit
    @jax.grad
    def gradient(learned):
        return jnp.sum(jax.nn.log_softmax(Bert(config).apply({"params": learned}, inputs, train=True))[:, 0])

    for path, leaf in flax.traverse_util.flatten_dict(gradient(params["params"])).items():
        assert np.isfinite(leaf).all(), path
        if path[-2:] != ("key", "bias"):  # it moves all scores of a query alike, which a softmax does not see
            assert np.abs(leaf).max() > 0, path


def test_the_interpreter_equals_the_plain_forward():
    _, params = FAMILY.convert(tensors(6), of("classes"))
    network = FAMILY.build(of("classes"), key=jax.random.key(0), name="tiny")
    network = type(network)("tiny", network.apply, params)
    inputs = batch(7, count=4)
    quantized = quantize(network, inputs, QuantizerConfig(activation_range="minmax"))
    found = np.asarray(jax.jit(QuantizedNetwork.logits)(quantized, jax.tree.map(jnp.asarray, inputs)))
    want = np.asarray(jax.jit(network.apply)(params, inputs))
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


# The published weights

PUBLISHED = runpy.run_path(str(Path(__file__).with_name("published_weights.py")))


@pytest.fixture(scope="module")
def minilm_file():
    return PUBLISHED["unpacked"](*PUBLISHED["MINILM"])


@pytest.mark.slow
@pytest.mark.parametrize("output", ["sequence", "pooled", "unit_mean"])
def test_minilm_equals_numpy(minilm_file, output):
    network = minilm_l6(minilm_file, output=output)
    inputs = batch(8, network.config, length=16, count=3)
    inputs["segments"] = np.zeros_like(inputs["segments"])
    want = numpy_bert(safetensors.numpy.load_file(minilm_file), network.config, **inputs, output=output)
    given = {"ids": inputs["ids"], "mask": inputs["mask"]}
    found = np.asarray(jax.jit(network.apply)(network.params, given))
    shown = inputs["mask"].astype(bool) if output == "sequence" else slice(None)
    np.testing.assert_allclose(found[shown], want[shown], atol=1e-4 * np.abs(want[shown]).max())
    quantized = quantize(network, given, QuantizerConfig(activation_range="minmax"))
    through = np.asarray(jax.jit(QuantizedNetwork.logits)(quantized, jax.tree.map(jnp.asarray, given)))
    np.testing.assert_allclose(through[shown], want[shown], atol=1e-4 * np.abs(want[shown]).max())


@pytest.mark.slow
def test_minilm_is_not_bert_base(minilm_file):
    with pytest.raises(ValueError, match=r"bert_base as Hugging Face .* 96 tensors are missing"):
        bert_base(minilm_file)
