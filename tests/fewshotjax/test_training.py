"""Training on a few images: the first step by hand, resuming bit for bit, samplers, what is kept."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Backbone, Preprocess, features
from fewshotjax.data.labelled import LabelledImages
from fewshotjax.objectives import Objective
from fewshotjax.training import TrainConfig, loop, progress, train, train_head
from fewshotjax.training.batches import balanced, class_table, shifted
from fewshotjax.training.describe import describe
from fewshotjax.training.loop import Chunk
from fewshotjax.training.step import Data, begin, optimizer, run

CONFIG = TrainConfig(epochs=3, batch=8, learning_rate=0.05, padding=1, ema=0.5)
RAW = Preprocess(4, mean=(120.0, 110.0, 100.0), scale=(60.0, 55.0, 50.0))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return x.mean((1, 2))


def begun(key, width, classes):
    return {"kernel": 0.1 * jax.random.normal(key, (width, classes)), "bias": jnp.zeros(classes)}


def cross_entropy(params, features, labels):
    logits = jnp.einsum("bf,fc->bc", features, params["kernel"]) + params["bias"][None]
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean(), log_p


SOFTMAX = Objective(begun, cross_entropy, lambda params, features: features)


def pictures(seed, count):
    """Classes differ in the channel that is bright."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    pixels = rng.integers(0, 120, (count, 4, 4, 3))
    pixels[np.arange(count), :, :, labels] += 100
    return LabelledImages(pixels.astype(np.uint8), labels, ("a", "b", "c"))


@pytest.fixture(scope="module")
def net():
    model = Net()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    return Backbone("net", model.apply, variables, RAW, 4)


def equal(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def lines(history):
    return [(line.number, line.loss, line.error, line.validation_error) for line in history]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_first_step_by_hand(net, name):
    """Nesterov's first step is (1 + m)·g, Adam's sign(g) but for ε; only arrays are decayed."""
    config = replace(
        CONFIG, epochs=1, warmup_epochs=0.0, padding=0, mirror=False, optimizer=name, weight_decay=0.1
    )
    part, head = pictures(0, 8), begun(jax.random.key(5), 4, 3)
    state = begin(net.variables, head, config, 1)
    data = Data(
        jnp.asarray(part.images), jnp.asarray(part.labels), jnp.zeros((0, 1), "i4"), jnp.zeros(0, "i4")
    )
    state = run(jax.random.key(1), state, data, jnp.asarray(1), net.apply, RAW, SOFTMAX, config)
    x = (part.images.astype(np.float32) - np.float32(RAW.mean)) / np.float32(RAW.scale)

    def loss(params):
        variables = {**net.variables, "params": params["backbone"]}
        found, updates = net.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
        value, log_p = cross_entropy(params["head"], found, jnp.asarray(part.labels))
        return value, (updates["batch_stats"], log_p)

    params = {"backbone": net.variables["params"], "head": head}
    (value, (statistics, log_p)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(state.loss, value, rtol=1e-5)
    np.testing.assert_allclose(state.error, np.mean(np.argmax(log_p, 1) != part.labels), rtol=1e-6)
    for was, g, found in zip(*map(jax.tree.leaves, (params, grads, state.params)), strict=True):
        decay = 0.1 * was if was.ndim > 1 else 0.0 * was
        move = 1.9 * (g + decay) if name == "sgd" else g / (jnp.abs(g) + 1e-8) + decay
        sure = np.abs(g) > 1e-5  # where the sign of a gradient is no rounding
        np.testing.assert_allclose(found[sure], (was - 0.05 * move)[sure], rtol=1e-3, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (state.statistics, statistics)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert equal(state.kept["params"], state.params["backbone"])  # the mean of one
    assert equal(state.kept["head"], state.params["head"])


def test_the_learning_rate_rises_and_falls():
    config = TrainConfig(epochs=4, warmup_epochs=1.0, learning_rate=0.5, momentum=0.0, weight_decay=0.0)
    rule, moves = optimizer(config, 40), []
    state = rule.init({"w": jnp.zeros(1)})
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(40):
            update, state = rule.update({"w": jnp.ones(1)}, state, {"w": jnp.zeros(1)})
            moves.append(-float(update["w"][0]))
    wanted = [0.05 * i for i in range(10)] + [0.25 * (1 + np.cos(np.pi * i / 30)) for i in range(30)]
    np.testing.assert_allclose(moves, wanted, atol=1e-6)


def test_it_learns_and_keeps_a_mean_of_the_weights(net):
    part, unseen, seen = pictures(1, 120), pictures(2, 60), []

    def wrong(backbone, head):
        _, log_p = cross_entropy(head, jnp.asarray(features(backbone, unseen)), jnp.asarray(unseen.labels))
        return float(np.mean(np.argmax(log_p, 1) != unseen.labels))

    config = replace(CONFIG, epochs=6, learning_rate=0.2)
    found = train(jax.random.key(0), net, part, SOFTMAX, config, validation=wrong, on_epoch=seen.append)
    assert found.finished
    assert list(found.history) == seen
    assert [line.number for line in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].loss < seen[0].loss
    assert wrong(found.backbone, found.head) == seen[-1].validation_error < 0.1
    assert found.backbone.apply is net.apply
    assert found.settings["config"]["learning_rate"] == 0.2


@pytest.mark.parametrize("balance", [False, True])
def test_a_stopped_training_goes_on_bit_for_bit(net, tmp_path, monkeypatch, balance):
    """After any chunk, with chunks of any length, in one compilation."""
    part, key, file = pictures(1, 60), jax.random.key(3), tmp_path / "train.state"
    config = (
        replace(CONFIG, ways=2, per_class=3, steps_per_epoch=5) if balance else CONFIG
    )  # 7 steps an epoch
    errors = iter([0.5, 0.25, 0.75, 0.5, 0.25, 0.75])
    config = replace(config, keep="best")
    whole = train(key, net, part, SOFTMAX, config, validation=lambda *_: next(errors))
    compiled, later = run._cache_size(), iter([0.5, 0.25, 0.75])
    stops, chunks = [1, 2, 6, 7, 8, config.steps(60) * 3], []

    def stop(chunk):
        chunks.append(chunk.done)
        if stops and chunk.done >= stops[0]:
            stops.pop(0)
            raise StoppedError

    for every in (2, 3, 1, 5, 4, 9):
        with pytest.raises(StoppedError):
            train(
                key,
                net,
                part,
                SOFTMAX,
                config,
                validation=lambda *_: next(later),
                on_chunk=stop,
                every=every,
                checkpoint=file,
            )
    monkeypatch.setattr(loop, "run", None)  # all is done: nothing is run
    resumed = train(key, net, part, SOFTMAX, config, validation=lambda *_: 1.0, checkpoint=file)
    assert chunks == sorted(chunks)
    assert run._cache_size() == compiled
    assert equal((whole.backbone.variables, whole.head), (resumed.backbone.variables, resumed.head))
    assert lines(whole.history) == lines(resumed.history)
    assert whole.settings == resumed.settings
    with pytest.raises(ValueError, match="was written with other settings: config was"):
        train(key, net, part, SOFTMAX, replace(config, ema=0.1), validation=lambda *_: 1.0, checkpoint=file)
    with pytest.raises(ValueError, match="was written with other settings: data was"):
        train(key, net, pictures(2, 60), SOFTMAX, config, validation=lambda *_: 1.0, checkpoint=file)


def test_the_best_epoch_is_kept_on_request(net):
    part, key, kept = pictures(1, 24), jax.random.key(0), []

    def told(errors):
        def validation(backbone, head):
            kept.append((backbone.variables, head))
            return errors[len(kept) - 1]

        return validation

    config = replace(CONFIG, epochs=4)
    best = train(key, net, part, SOFTMAX, replace(config, keep="best"), validation=told([0.5, 0.1, 0.1, 0.3]))
    assert equal((best.backbone.variables, best.head), kept[1])  # the first of equals
    assert not equal(kept[1], kept[3])
    assert [line.validation_error for line in best.history] == [0.5, 0.1, 0.1, 0.3]
    del kept[:]
    last = train(key, net, part, SOFTMAX, config, validation=told([0.5, 0.1, 0.1, 0.3]))
    assert equal((last.backbone.variables, last.head), kept[3])
    with pytest.raises(ValueError, match="keep='best' needs validation"):
        train(key, net, part, SOFTMAX, replace(config, keep="best"))
    with pytest.raises(ValueError, match="validation gave nan: it must be an error"):
        train(key, net, part, SOFTMAX, config, validation=lambda *_: float("nan"))


def test_a_time_limit_gives_what_there_is(net, tmp_path):
    part, key, file = pictures(1, 60), jax.random.key(3), tmp_path / "train.state"
    calls, states = 0, []
    while not states or not states[-1].finished:
        states.append(train(key, net, part, SOFTMAX, CONFIG, every=9, checkpoint=file, time_limit_s=0.0))
        calls += 1
    assert calls > 3
    assert not states[0].finished
    assert states[0].history == ()
    whole = train(key, net, part, SOFTMAX, CONFIG)
    assert equal((whole.backbone.variables, whole.head), (states[-1].backbone.variables, states[-1].head))


def test_checkpoints_are_seldom(net, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(loop, "save_state", lambda *_: written.append(1))
    train(jax.random.key(0), net, pictures(1, 60), SOFTMAX, CONFIG, every=1, checkpoint=tmp_path / "x")
    assert len(written) == 1  # at the end
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    train(jax.random.key(0), net, pictures(1, 60), SOFTMAX, CONFIG, every=1, checkpoint=tmp_path / "x")
    assert len(written) == 1 + 21


def test_a_refreshed_head(tmp_path):
    """The head is replaced before every epoch but the first, also the mean that is kept."""
    rng, seen = np.random.default_rng(0), []
    x, y = rng.normal(size=(24, 4)).astype(np.float32), (np.arange(24) % 3).astype(np.int32)

    def refresh(number, head):
        seen.append(number)
        return {**head, "kernel": jnp.full_like(head["kernel"], number)}

    # Rates so small that nothing else moves the head.
    config = replace(CONFIG, learning_rate=1e-9, weight_decay=0.0)
    found = train_head(jax.random.key(0), x, y, SOFTMAX, config, refresh=refresh)
    assert seen == [1, 2]
    np.testing.assert_allclose(found.head["kernel"], 2.0, atol=1e-5)
    with pytest.raises(ValueError, match="refresh gave a head of other shapes"):
        train_head(
            jax.random.key(0), x, y, SOFTMAX, config, refresh=lambda n, h: {**h, "kernel": jnp.zeros((4, 2))}
        )


def test_a_head_on_features_finds_what_newton_finds():
    """Logistic regression, by an independent route: iteratively reweighted least squares."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    y = (x @ [1.0, -1.0] + rng.normal(size=64) > 0).astype(np.int32)
    wide = np.column_stack([x, np.ones(64)])
    w = np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-wide @ w))
        w += np.linalg.solve((wide.T * (p * (1 - p))) @ wide, wide.T @ (y - p))
    config = TrainConfig(epochs=300, batch=64, learning_rate=0.5, weight_decay=0.0, ema=0.0)
    found = train_head(jax.random.key(0), x, y, SOFTMAX, config)
    assert found.backbone is None
    slope = np.diff(np.asarray(found.head["kernel"]))[:, 0]
    np.testing.assert_allclose([*slope, np.diff(found.head["bias"])[0]], w, atol=1e-3)


def test_an_epoch_has_every_example_once():
    """An objective whose gradient counts what it sees."""

    def loss(params, features, labels):
        return jnp.einsum("c,bc->", params["seen"], features), jnp.zeros((len(labels), 12))

    count = Objective(lambda key, width, classes: {"seen": jnp.zeros(width)}, loss, lambda p, x: x)
    config = TrainConfig(
        epochs=1, batch=4, learning_rate=1.0, momentum=0.0, weight_decay=0.0, ema=0.0, warmup_epochs=0.0
    )
    x, y = np.eye(12, dtype=np.float32), np.arange(12, dtype=np.int32)
    found = train_head(jax.random.key(1), x, y, count, config, every=2)
    seen = -np.asarray(found.head["seen"])
    rates = 0.5 * (1 + np.cos(np.pi * np.arange(3) / 3))
    np.testing.assert_allclose(np.sort(seen)[::-1], np.repeat(rates, 4), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_balanced_batches(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(6), [3, 9, 0, 4, 5, 3])).astype(np.int32)
    table, counts = class_table(labels, 6)
    for row, count in enumerate(counts):
        np.testing.assert_array_equal(table[row, :count], np.flatnonzero(labels == row))
    draw = jax.jit(partial(balanced, ways=4, per_class=3))
    many = np.asarray(
        jax.vmap(lambda key: draw(key, table, counts))(jax.random.split(jax.random.key(seed), 400))
    )
    chosen = labels[many].reshape(400, 4, 3)
    assert (chosen == chosen[:, :, :1]).all()  # class after class
    assert all(len(set(batch)) == 4 for batch in chosen[:, :, 0].tolist())
    assert all(len(set(batch)) == 12 for batch in many.tolist())
    share = np.bincount(many.reshape(-1), minlength=len(labels)) / 400
    wanted = 4 / 5 * 3 / counts[labels]  # a class, then three of its examples
    np.testing.assert_allclose(share, wanted, atol=5 * np.sqrt(0.25 / 400))


def test_shifts_and_mirrors():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    crops = {}
    for i in range(3):
        for j in range(3):
            crop = wide[i : i + 4, j : j + 4]
            crops[crop.tobytes()], crops[crop[:, ::-1].tobytes()] = (i, j, False), (i, j, True)
    batch = jnp.asarray(np.repeat(image[None], 600, 0))
    found = np.asarray(shifted(jax.random.key(0), batch, 1, True))
    seen = [crops[one.tobytes()] for one in found]
    assert set(seen) == set(crops.values())
    assert max(seen.count(kind) for kind in crops.values()) < 70  # 33 on average
    still = np.asarray(shifted(jax.random.key(0), batch, 1, False))
    assert {crops[one.tobytes()][2] for one in still} == {False}
    np.testing.assert_array_equal(shifted(jax.random.key(0), batch, 0, False), batch)


def test_a_function_in_words():
    def made(alpha, inner):
        return lambda x: (alpha, inner, x)

    assert describe(made(0.5, cross_entropy)) != describe(made(0.6, cross_entropy))
    assert describe(made(0.5, cross_entropy)) == describe(made(0.5, cross_entropy))
    assert describe(partial(begun, width=3)) == "partial(begun(), width=3)"
    assert "0x" not in describe(Objective(made(1, np.zeros(2)), made(CONFIG, None), Net().apply))
    assert "learning_rate=0.05" in describe(made(CONFIG, None))


def test_progress_in_a_pipe(capsys):
    with progress("fit") as tell:
        for done in (1, 2, 3):
            tell(Chunk(done, 3, 1, 0.5, 0.25, 0.1))
    assert capsys.readouterr().err.splitlines() == [
        "fit 1/3, 0 s, epoch 1, loss 0.500, training error 25.0%",
        "fit 3/3, 0 s, epoch 1, loss 0.500, training error 25.0%",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"ways": 1}, "ways must be at least 2 or None, got 1"),
        ({"steps_per_epoch": 3}, "steps_per_epoch=3 is for balanced batches: set ways"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, got 'lion'"),
        ({"keep": "first"}, "keep must be one of last, best"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1\.0"),
        ({"padding": -1}, "padding must not be negative"),
        ({"warmup_epochs": 3.0}, "warmup_epochs must be below epochs, got 3.0 of 3"),
    ],
)
def test_configs_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_what_training_refuses(net):
    part, key = pictures(1, 20), jax.random.key(0)
    go = partial(train, key, net)
    with pytest.raises(ValueError, match="batch is 64 for 20 examples: lower it"):
        go(part, SOFTMAX, replace(CONFIG, batch=64))
    with pytest.raises(ValueError, match="every must be at least 1"):
        go(part, SOFTMAX, CONFIG, every=0)
    with pytest.raises(ValueError, match="ways is 4, but 3 classes have examples: lower it"):
        go(part, SOFTMAX, replace(CONFIG, ways=4))
    with pytest.raises(ValueError, match=r"per_class is 7, more than 1 classes have: c \(6\): lower it"):
        go(part, SOFTMAX, replace(CONFIG, ways=2, per_class=7))
    small = LabelledImages(part.images[:, :3, :3], part.labels, part.classes)
    with pytest.raises(ValueError, match="images are 3x3, the backbone takes 4x4 pixels"):
        go(small, SOFTMAX, CONFIG)
    with pytest.raises(ValueError, match="net has no variables"):
        train(key, replace(net, variables=[]), part, SOFTMAX, CONFIG)
    with pytest.raises(ValueError, match=r"training diverged in epoch 1: lower learning_rate, 1e\+38"):
        go(part, SOFTMAX, replace(CONFIG, learning_rate=1e38, warmup_epochs=0.0))
    x, y = np.zeros((9, 2), np.float32), np.zeros(9, np.int32)
    for features_, labels, message in (
        (x[:, 0], y, r"features are float32 of shape \(9,\): give float32 \(N, F\)"),
        (x + np.float32([[np.nan]]), y, "features: row 0 holds NaN"),
        (x, y[:3], r"labels are \(3,\), features \(9, 2\)"),
        (x, y + np.int32(2), "labels must be in 0-1, got 2 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            train_head.__wrapped__(key, features_, labels, SOFTMAX, CONFIG, classes=2)
