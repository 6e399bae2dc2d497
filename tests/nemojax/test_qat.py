"""Training at frozen bit-widths: LSQ's gradient, what is learned, and how a stopped run goes on."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from nemojax.networks import Network
from nemojax.qat import QATConfig, qat, qat_front
from nemojax.qat.ranges import with_trained
from nemojax.qat.training import _run, init
from nemojax.quantizers import fake_quantize, grid

CONFIG = QATConfig(steps=40, batch=16, learning_rate=3e-3, range_rate=3e-3, chunk=20)


def images(seed, count=96):
    return np.random.default_rng(seed).normal(size=(count, 4, 4, 2)).astype(np.float32)


def apply(p, x):
    x = jax.lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.nn.relu(x + p["shift"][None, None, None])
    return jnp.mean(x, (1, 2)) @ p["fc"] + p["fc_bias"][None]


def make(symmetric):
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 2, 8), "shift": (8,), "fc": (8, 3), "fc_bias": (3,)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    config = nemo.QuantizerConfig(symmetric_weights=symmetric, symmetric_activations=symmetric)
    return nemo.quantize(Network("net", apply, params), images(1, 30), config)


@pytest.fixture(scope="module")
def network():
    return make(symmetric=False)


@pytest.fixture(scope="module", params=["asymmetric", "symmetric"])
def of_each_kind(request, network):
    return make(symmetric=True) if request.param == "symmetric" else network


def low_bits(network, b=2):
    return np.full(len(network.workload.points), b)


def kl(network, bits, x):
    log_p = jax.nn.log_softmax(network.quantized_logits(jnp.asarray(bits), x))
    log_q = jax.nn.log_softmax(network.logits(x))
    return float(jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_step_size_has_the_gradient_of_lsq(bits):
    """Equation 3 of Esser et al. 2020: -v/s + round(v/s) inside, -Q_N or Q_P where v is clipped."""
    x = np.random.default_rng(0).normal(size=500).astype(np.float32) * 2
    first, levels, s = -(2 ** (bits - 1)), 2**bits - 1, np.float32(2.5 / 2**bits)
    weight = np.random.default_rng(1).normal(size=500).astype(np.float32)  # of the loss

    def loss(s):
        low, high = s * first, s * (first + levels)
        return jnp.sum(weight * fake_quantize(jnp.asarray(x), low, high, jnp.asarray(bits)))

    v = x / s
    inside = (v > first) & (v < first + levels)
    assert 0 < inside.mean() < 1
    expected = np.where(inside, np.rint(v) - v, np.clip(v, first, first + levels))
    np.testing.assert_allclose(jax.grad(loss)(s), np.sum(weight * expected), rtol=1e-4)


def test_the_first_level_has_the_gradient_of_a_shift():
    """LSQ+ (Bhalgat et al. 2020): what is clipped moves with the grid, what is inside does not."""
    x = jnp.asarray([-3.0, -0.4, 0.2, 0.9, 5.0])

    def total(first):
        scale = 0.5
        return jnp.sum(fake_quantize(x, scale * first, scale * (first + 7), jnp.asarray(3)))

    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(-2.0)), 2 * 0.5, rtol=1e-5)  # two are clipped


def test_it_starts_as_the_network_and_gives_what_it_trained(of_each_kind):
    network = of_each_kind
    bits = jnp.asarray(low_bits(network, 3))
    x = jnp.asarray(images(2))
    start = with_trained(network, bits, init(network, bits, CONFIG).trainable)
    for i in range(len(bits)):  # the ends move onto the grid, the grid stays
        ours, theirs = (
            grid(net.ranges.low[i, 3], net.ranges.high[i, 3], bits[i], symmetric=net.config.symmetric_weights)
            for net in (start, network)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(start.quantized_logits(bits, x), network.quantized_logits(bits, x), atol=1e-3)
    plain = start.quantized_logits(bits, x)
    through = start.quantized_logits(bits, x, straight_through=True)
    np.testing.assert_array_equal(plain, through)  # training sees the numbers of inference


def test_training_brings_back_what_few_bits_took(of_each_kind):
    network = of_each_kind
    x, unseen, bits = images(3, 600), images(4), low_bits(network)
    config = dataclasses.replace(CONFIG, steps=300, batch=32, learning_rate=3e-4)
    trained = qat(jax.random.key(0), network, bits, x, config=config)
    assert kl(trained, bits, unseen) < 0.8 * kl(network, bits, unseen)
    changed = np.abs(trained.ranges.high - network.ranges.high).max(axis=0)
    assert (np.delete(changed, 2) == 0).all()  # at these bits alone
    assert (trained.ranges.low <= 0).all()
    assert (trained.ranges.high >= 0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))


def test_without_learned_ranges_the_grids_stay(of_each_kind):
    network = of_each_kind
    bits = jnp.asarray(low_bits(network, 3))
    trained = qat(
        jax.random.key(0), network, bits, images(3), config=dataclasses.replace(CONFIG, learn_ranges=False)
    )
    assert np.abs(trained.folded.kernels["conv"] - network.folded.kernels["conv"]).max() > 1e-3
    for i in range(len(bits)):
        ours, theirs = (
            grid(net.ranges.low[i, 3], net.ranges.high[i, 3], bits[i], symmetric=net.config.symmetric_weights)
            for net in (trained, network)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_points_at_32_bits_and_empty_ranges_stay(network):
    bits = low_bits(network)
    bits[1:3] = 32
    trained = qat(jax.random.key(0), network, bits, images(3), config=CONFIG)
    assert (trained.ranges.low[1:3] == network.ranges.low[1:3]).all()
    exact = qat(jax.random.key(0), network, low_bits(network, 32), images(3), config=CONFIG)
    np.testing.assert_allclose(exact.logits(images(4)), network.logits(images(4)), atol=0.1)


def test_labels_teach_too(network):
    x = images(3)
    labels = (x[..., 0].mean((1, 2)) > 0).astype(np.int32)
    config = dataclasses.replace(CONFIG, steps=200, distill=0.0)
    bits = low_bits(network, 4)

    def accuracy(net):
        return float((net.quantized_logits(jnp.asarray(bits), x).argmax(1) == labels).mean())

    trained = qat(jax.random.key(0), network, bits, x, labels, config)
    assert accuracy(trained) > accuracy(network) + 0.15


def test_a_stopped_run_goes_on_bit_for_bit(network, tmp_path):
    bits, x = low_bits(network), images(3)
    flip = lambda key, batch: jnp.where(  # noqa: E731
        jax.random.bernoulli(key, shape=(len(batch), 1, 1, 1)), batch[:, :, ::-1], batch
    )
    whole = qat(jax.random.key(5), network, bits, x, config=CONFIG, augment=flip)
    again = qat(jax.random.key(5), network, bits, x, config=CONFIG, augment=flip)
    other = qat(jax.random.key(6), network, bits, x, config=CONFIG, augment=flip)

    class StoppedError(Exception):
        pass

    def stop(state):
        raise StoppedError

    file = tmp_path / "qat.ckpt"
    with pytest.raises(StoppedError):
        qat(jax.random.key(5), network, bits, x, config=CONFIG, augment=flip, on_chunk=stop, checkpoint=file)
    seen = []
    resumed = qat(
        jax.random.key(5),
        network,
        bits,
        x,
        config=CONFIG,
        augment=flip,
        on_chunk=lambda state: seen.append(int(state.step)),
        checkpoint=file,
    )
    assert seen == [40]  # the first 20 steps are not run again
    for a, b, c in zip(*map(jax.tree.leaves, (whole, again, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (whole, other)), strict=True))
    with pytest.raises(ValueError, match=r"was written with other settings: .*bits was"):
        qat(jax.random.key(5), network, low_bits(network, 3), x, config=CONFIG, checkpoint=file)


def test_chunks_share_one_compilation(network):
    before = _run._cache_size()
    config = dataclasses.replace(CONFIG, steps=6, batch=13, chunk=2)
    qat(jax.random.key(0), network, low_bits(network), images(3), config=config)
    assert _run._cache_size() == before + 1


def test_a_front_is_trained_in_one_compilation(network):
    x = images(3)
    task = nemo.fidelity(network, images(4))
    widths = np.stack([low_bits(network, b) for b in (2, 3, 4)])
    front = nemo.Front.of(widths, np.asarray(task.costs(widths)), task.objectives, task.space.names)
    compiled = _run._cache_size()
    found = qat_front(jax.random.key(0), front, None, task.on(images(5)), x, config=CONFIG)
    assert _run._cache_size() <= compiled + 1
    assert len(found.networks) == len(found.front) >= 2
    after, before = found.front.costs[:, 0], found.front.held_out["ptq_kl"]
    assert after.mean() < before.mean()
    for net, bits, cost in zip(found.networks, found.front.bits, after, strict=True):
        assert kl(net, bits, images(5)) >= 0
        target = network.logits(images(5))
        log_p = jax.nn.log_softmax(net.quantized_logits(jnp.asarray(bits), images(5)))
        own = jnp.mean(jnp.sum(jax.nn.softmax(target) * (jax.nn.log_softmax(target) - log_p), -1))
        np.testing.assert_allclose(cost, own, rtol=1e-3, atol=1e-6)


def test_refusals(network):
    x, key = images(3), jax.random.key(0)
    for change, message in (
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"distill": 1.5}, r"distill must be in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            QATConfig(**change)
    for bits, message in (
        (np.full(3, 4), r"bits .*\(1, 3\)"),
        (low_bits(network, 1), "bits of .* are 1"),
        (low_bits(network) + 0.5, "bits must be whole numbers"),
        (None, "bits are None"),
    ):
        with pytest.raises(ValueError, match=message):
            qat(key, network, bits, x)
    for labels, message in (
        (np.full(96, -1), r"labels must be in 0-\d+, got -1 to -1"),
        (np.full(96, 99), r"labels must be in 0-\d+, got 99 to 99"),
        (np.full(96, 1.7), "labels are float64: give whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            qat(key, network, low_bits(network), x, labels, QATConfig(distill=0.5))
    with pytest.raises(ValueError, match=r"distill is 0.5, so labels are needed"):
        qat(key, network, low_bits(network), x, config=QATConfig(distill=0.5))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) for 96 inputs"):
        qat(key, network, low_bits(network), x, np.zeros(3, int))
    with pytest.raises(ValueError, match="inputs has shape"):
        qat(key, network, low_bits(network), x[:, :2])
    x[5] = np.nan
    with pytest.raises(ValueError, match=r"inputs\[5\] holds NaN or infinity"):
        qat(key, network, low_bits(network), x, config=CONFIG)


@pytest.mark.parametrize("per_channel", [False, True])
def test_shared_weights_stay_shared(per_channel, tmp_path):
    """A layer that is run twice, and where one range holds for all of it, once more, transposed."""
    from nemojax.export import load_packed, save_packed

    rng = np.random.default_rng(0)
    params = {
        "layer": rng.normal(size=(6, 6)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
        "out": rng.normal(size=(6, 4)).astype(np.float32),
    }

    def fn(p, x):
        for _ in range(2):
            x = jax.nn.relu(x @ p["layer"] + p["bias"][None])
        x = x if per_channel else x @ p["layer"].T
        return x @ p["out"]

    x = rng.normal(size=(64, 6)).astype(np.float32)
    config = nemo.QuantizerConfig(per_channel=per_channel)
    net = nemo.quantize(nemo.quantizable(fn, params), x, config)
    readers = [op.name for op in net.workload.operations if op.weight_point >= 0][:-1]
    assert len(readers) == (2 if per_channel else 3)
    bits = np.full(len(net.workload.points), 3)
    trained = qat(jax.random.key(0), net, bits, x, config=dataclasses.replace(CONFIG, batch=16))
    kernels = [np.asarray(trained.folded.kernels[name]) for name in readers]
    assert np.abs(kernels[0] - params["layer"]).max() > 1e-3
    np.testing.assert_array_equal(kernels[1], kernels[0])
    if not per_channel:
        np.testing.assert_array_equal(kernels[2], kernels[0].T)
    one, two = (np.asarray(trained.folded.biases[name]) for name in readers[:2])
    np.testing.assert_array_equal(one, two)
    assert kl(trained, bits, x) < kl(net, bits, x)
    save_packed(tmp_path / "net", trained, bits)
    again = load_packed(tmp_path / "net", net)
    wanted = np.asarray(trained.quantized_logits(jnp.asarray(bits), x))
    np.testing.assert_allclose(np.asarray(again.quantized_logits(jnp.asarray(bits), x)), wanted, atol=1e-5)


def trained_and_packed(fn, params, x, folder, per_channel=False):
    """(as quantized, trained at 3 bits), once a file gave back what was trained."""
    from nemojax.export import load_packed, save_packed

    net = nemo.quantize(Network("net", fn, params), x, nemo.QuantizerConfig(per_channel=per_channel))
    bits = np.full(len(net.workload.points), 3)
    trained = qat(jax.random.key(0), net, bits, x, config=CONFIG)
    save_packed(folder / "net", trained, bits)
    again = load_packed(folder / "net", net)
    one, two = (np.asarray(n.quantized_logits(jnp.asarray(bits), x)) for n in (trained, again))
    np.testing.assert_allclose(one, two, atol=1e-5)
    return net, trained


class Twice(nn.Module):
    """One layer and one norm, each run twice."""

    @nn.compact
    def __call__(self, x):
        norm, layer = nn.LayerNorm(), nn.Dense(6)
        for _ in range(2):
            x = nn.relu(layer(norm(x)))
        return nn.Dense(4)(x)


class Dictionary(nn.Module):
    """A table that is looked up in and projected with."""

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(11, 6)
        return table.attend(nn.gelu(nn.Dense(6)(table(tokens))).mean(1))


@pytest.mark.parametrize("per_channel", [False, True])
def test_flax_modules_that_are_run_twice_stay_one(per_channel, tmp_path):
    """Their biases start at 0, as biases that are not there; norms are read through views of their own."""
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    net, trained = trained_and_packed(
        Twice().apply, Twice().init(jax.random.key(0), x[:1]), x, tmp_path, per_channel
    )
    one, two, _ = (op.name for op in net.workload.operations if op.weight_point >= 0)
    assert np.abs(trained.folded.biases[one]).max() > 1e-4
    assert np.abs(trained.folded.kernels[one] - net.folded.kernels[one]).max() > 1e-3
    for a, b in ((p[one], p[two]) for p in (*trained.folded[:2], trained.ranges.weights)):
        np.testing.assert_array_equal(a, b)
    scales = [np.ravel(c) for c in trained.folded.constants.values()]
    assert len(scales) == 4
    assert all(any(np.array_equal(a, b) for b in scales[:i] + scales[i + 1 :]) for i, a in enumerate(scales))


def test_an_embedding_stays_its_own_projection(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 11, (64, 5)).astype(np.int32)
    params = Dictionary().init(jax.random.key(0), tokens[:1])
    net, trained = trained_and_packed(Dictionary().apply, params, tokens, tmp_path)
    table, _, out = (op.name for op in net.workload.operations if op.weight_point >= 0)
    assert np.abs(trained.folded.kernels[table] - net.folded.kernels[table]).max() > 1e-3
    np.testing.assert_array_equal(trained.folded.kernels[out], trained.folded.kernels[table].T)


def test_a_transposed_reader_stays_transposed_from_a_symmetric_start(tmp_path):
    rng = np.random.default_rng(0)
    layer, out = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 6), (6, 4)))

    def fn(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["layer"]) @ p["layer"].T) @ p["out"]

    x = rng.normal(size=(64, 6)).astype(np.float32)
    _, trained = trained_and_packed(fn, {"layer": layer + layer.T, "out": out}, x, tmp_path)
    one, two, _ = map(np.asarray, trained.folded.kernels.values())
    assert np.abs(one - one.T).max() > 1e-3
    np.testing.assert_array_equal(two, one.T)


def test_a_transposed_reader_whose_range_lies_along_the_same_axis_shares_it():
    """Per channel; where the axes differ the numbers are shared, the ranges not, as before training."""
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(6, 6)).astype(np.float32) for name in ("same", "other")}

    def fn(p, x):
        x = jax.nn.relu(x @ p["other"]) @ p["other"].T
        x = jax.lax.dot_general(jax.nn.relu(x), p["same"], (((1,), (1,)), ((), ())))
        return jax.nn.relu(x) @ p["same"].T

    x = rng.normal(size=(64, 6)).astype(np.float32)
    net = nemo.quantize(Network("net", fn, params), x)
    trained = qat(jax.random.key(0), net, np.full(len(net.workload.points), 3), x, config=CONFIG)
    kernels, ranges = trained.folded.kernels, trained.ranges.weights
    for name in ("same", "other"):
        assert ranges[name][0].shape[1:] == ((6, 1) if name == "same" else (1, 6))
        np.testing.assert_array_equal(kernels[f"{name}_2"], kernels[name].T)
        one, two = (np.asarray(ranges[n][0][3]) for n in (name, f"{name}_2"))
        assert np.array_equal(two, one.T) == (name == "same")


def test_bits_as_a_search_gives_them(network):
    front = nemo.Front.of(low_bits(network)[None], np.ones((1, 1)), ("kl",), network.workload.point_names)
    x = images(3)
    config = dataclasses.replace(CONFIG, steps=2, chunk=2)
    wanted = qat(jax.random.key(0), network, low_bits(network), x, config=config)
    found = qat(jax.random.key(0), network, front.configuration(0), x, config=config)
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)
