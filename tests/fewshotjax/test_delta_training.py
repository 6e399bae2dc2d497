"""Training of a Delta-encoder: masked batches, the rate's rule, resuming bit for bit, what is refused."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.delta import (
    DeltaConfig,
    DeltaTrainConfig,
    code_bank,
    decode,
    encode,
    init_delta,
    make_pairs,
    nearest_pairs,
    reconstruction,
    sample_losses,
    train_delta,
    training,
)
from fewshotjax.delta.step import begin, run
from fewshotjax.training import progress

WIDTH, KEY, DECAY = 6, jax.random.key(3), jnp.float32(0.9)
CONFIG = DeltaConfig(hidden=16, code=2, init_std=0.2, scaling="standard")
QUIET = replace(CONFIG, dropout=0.0)
TRAIN = DeltaTrainConfig(learning_rate=0.01, batch=8, epochs=3)


def samples(seed, each=10, classes=3):
    """Classes differ in their means, and share two directions in which their samples differ."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes) * 5 - 1, each)
    x = rng.normal(0, 3, (classes, WIDTH))[labels // 5] + rng.normal(size=(len(labels), 2)) @ rng.normal(
        size=(2, WIDTH)
    )
    return x.astype(np.float32), labels


X, LABELS = samples(0)  # 30 samples: 4 steps an epoch, the last with 6 pairs


def equal(a, b):
    return all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def lines(history):
    return [(line.number, line.loss, line.learning_rate, line.validation_error) for line in history]


class StoppedError(Exception):
    pass


def test_an_epoch_is_adam_on_every_pair_once():
    """Against gradients of single pairs and Adam in NumPy: the last batch's padding counts for nothing. The
    next epoch has other pairs, and the lower rate where the first counts as worse than the best."""
    x, labels = jnp.asarray(X), jnp.asarray(LABELS, jnp.int32)

    @jax.jit
    def begun(number):
        k_pairs, k_order, _ = jax.random.split(jax.random.fold_in(KEY, number), 3)
        return make_pairs(k_pairs, labels), jax.random.permutation(k_order, 30)

    @jax.jit
    def singles(params, references):
        def single(params, x, y):
            x, y = x[None], y[None]
            return sample_losses(QUIET, x, decode(params, QUIET, y, encode(params, QUIET, x, y)))[0]

        return jax.vmap(jax.value_and_grad(single), (None, 0, 0))(params, x, x[references])

    start = init_delta(KEY, QUIET, WIDTH)
    params = jax.tree.map(np.asarray, start)
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    rate, t, seen = TRAIN.learning_rate, 0, []
    state = begin(start, TRAIN).replace(least=jnp.asarray(0.0))
    for epoch in range(2):
        references, order = begun(epoch)
        seen.append(np.asarray(references))
        total = 0.0
        for rows in np.split(np.asarray(order), [8, 16, 24]):
            t += 1
            values, gradients = jax.tree.map(np.asarray, singles(params, references))
            gradient = jax.tree.map(lambda g, rows=rows: g[rows].mean(0), gradients)
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
            params = jax.tree.map(
                lambda p, m, v, t=t, rate=rate: (
                    p - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
                ),
                params,
                first,
                second,
            )
            total += float(values[rows].sum())
        state = run(KEY, state, x, labels, None, jnp.asarray(4, jnp.int32), DECAY, QUIET, 8)
        np.testing.assert_allclose(state.loss, total, rtol=1e-5)
        rate *= float(DECAY)
        np.testing.assert_allclose(state.rate, rate, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), state.params, params
        )
    assert int(state.step) == 8
    assert (seen[0] != seen[1]).any()


def test_the_rate_falls_after_an_epoch_that_is_worse_than_the_best():
    train = replace(TRAIN, learning_rate=0.05, epochs=14, decay=0.5)
    history = train_delta(KEY, X, LABELS, CONFIG, train).history
    rate, least = 0.05, np.inf
    for line in history:
        np.testing.assert_allclose(line.learning_rate, rate, rtol=1e-6)
        if line.loss > least:
            rate *= 0.5
        else:
            least = line.loss
    assert rate < 0.05
    quiet = train_delta(KEY, X, LABELS, QUIET, replace(train, epochs=1)).history[0]
    assert abs(quiet.loss - history[0].loss) > 1e-3  # dropout is on in training
    assert least < history[0].loss


def test_it_learns_what_codes_are_for(capsys):
    seen, chunks = [], []
    train = replace(TRAIN, epochs=40)

    def note(chunk):
        chunks.append(chunk)
        progress("delta")(chunk)

    found = train_delta(KEY, X, LABELS, QUIET, train, on_epoch=seen.append, on_chunk=note, every=3)
    assert found.finished
    assert list(found.history) == seen
    assert [line.number for line in seen] == list(range(1, 41))
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert [chunk.done for chunk in chunks][-1] == chunks[-1].total == 160
    assert all(1 <= b.done - a.done <= 3 for a, b in pairwise(chunks))
    assert "epoch 40, loss" in capsys.readouterr().err
    assert found.settings["config"]["scaling"] == "standard"
    delta = found.delta
    np.testing.assert_array_equal(delta.bank_labels, LABELS)
    assert delta.bank.shape == (30, 2)
    # The bank is of pairs within classes, of scaled features.
    pairs = jax.jit(make_pairs, static_argnums=2)
    of_class = np.unique(LABELS, return_inverse=True)[1]
    references = pairs(jax.random.split(KEY, 3)[2], jnp.asarray(of_class, jnp.int32), "random", None)
    x = (X - X.mean(0)) / X.std(0)
    wanted = jax.jit(encode, static_argnums=1)(delta.params, delta.config, x, x[np.asarray(references)])
    np.testing.assert_allclose(delta.bank, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(delta.bank, code_bank(delta.params, delta.config, x, references), atol=1e-4)
    # True codes tell more than those of other pairs, and than copying the reference.
    numbers = reconstruction(jax.random.key(0), delta, X, references)
    assert numbers.code < min(numbers.shuffled, numbers.copy)


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """After any chunk, with chunks of any length, in one compilation; the best epoch is kept as well."""
    file, train = tmp_path / "new" / "delta.state", replace(TRAIN, keep="best")
    kept, episodes = [], {"validation_settings": {"data": "a"}}

    def told(errors):
        def validation(delta):
            kept.append(delta)
            return next(errors)

        return validation

    whole = train_delta(KEY, X, LABELS, CONFIG, train, validation=told(iter([0.5, 0.25, 0.25])), **episodes)
    assert equal(whole.delta, kept[1])  # the first of equals; what validation saw is what is given
    assert not equal(kept[1], kept[2])
    compiled, later = run._cache_size(), iter([0.5, 0.25, 0.25])
    stops, chunks = [1, 2, 4, 5, 7, 12], []

    def stop(chunk):
        chunks.append(chunk.done)
        if stops and chunk.done >= stops[0]:
            stops.pop(0)
            raise StoppedError

    for every in (2, 1, 2, 1, 4, 9):
        with pytest.raises(StoppedError):
            train_delta(
                KEY,
                X,
                LABELS,
                CONFIG,
                train,
                validation=told(later),
                on_chunk=stop,
                every=every,
                checkpoint=file,
                **episodes,
            )
    assert chunks == sorted(chunks)
    assert run._cache_size() == compiled
    monkeypatch.setattr(training, "run", None)  # all is done: nothing is run
    done = {"validation": lambda _: 1.0, "checkpoint": file}
    resumed = train_delta(KEY, X, LABELS, CONFIG, train, **done, **episodes)
    assert equal(whole.delta, resumed.delta)
    assert lines(whole.history) == lines(resumed.history)
    assert whole.settings == resumed.settings
    for change, match in (
        ({"config": replace(CONFIG, slope=0.1)}, "other settings: config was"),
        ({"train_config": replace(train, decay=0.8)}, "other settings: train_config was"),
        ({"features": X + 1}, "other settings: data was"),
        ({"key": jax.random.key(4)}, "other settings: key was"),
        ({"validation_settings": {"data": "b"}}, "other settings: validation was {'data': 'a'} and is now"),
    ):
        given = {
            "key": KEY,
            "features": X,
            "labels": LABELS,
            "config": CONFIG,
            "train_config": train,
            **episodes,
            **change,
        }
        with pytest.raises(ValueError, match=match):
            train_delta(**given, **done)


def test_a_time_limit_gives_what_there_is(tmp_path):
    file, found = tmp_path / "delta.state", []
    while not found or not found[-1].finished:
        found.append(train_delta(KEY, X, LABELS, CONFIG, TRAIN, checkpoint=file, time_limit_s=0.0))
    assert len(found) > 3
    assert found[0].history == ()
    assert found[0].delta.bank.shape == (30, 2)
    whole = train_delta(KEY, X, LABELS, CONFIG, TRAIN)
    assert equal(whole.delta, found[-1].delta)
    assert lines(whole.history) == lines(found[-1].history)


def test_a_training_that_moves_nothing_is_said_so():
    few = replace(TRAIN, learning_rate=1e-5)
    with pytest.warns(UserWarning, match=r"12 steps at a learning_rate of 1e-05 leave .* all but untrained"):
        train_delta(KEY, X, LABELS, CONFIG, few, time_limit_s=0.0)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:4 steps at a learning_rate")
def test_pairs_of_the_nearest_are_trained_on():
    """With a rate that moves nothing, an epoch's loss is the mean over the pairs."""
    config, train = (
        replace(CONFIG, dropout=0.0, pairs="nearest"),
        replace(TRAIN, epochs=1, learning_rate=1e-12),
    )
    found = train_delta(KEY, X, LABELS, config, train)
    x = jnp.asarray((X - X.mean(0)) / X.std(0))
    y = x[nearest_pairs(x, LABELS)]
    made = decode(found.delta.params, config, y, encode(found.delta.params, config, x, y))
    np.testing.assert_allclose(found.history[0].loss, sample_losses(config, x, made).mean(), rtol=1e-4)


def test_validation_and_divergence_are_checked():
    with pytest.raises(ValueError, match="validation gave nan: it must be an error"):
        train_delta(KEY, X, LABELS, CONFIG, TRAIN, validation=lambda _: float("nan"))
    with pytest.raises(ValueError, match="training diverged in epoch 1: lower learning_rate, 1e"):
        train_delta(KEY, X, LABELS, CONFIG, replace(TRAIN, learning_rate=1e30))


def wrong(row, value):
    x = X.copy()
    x[row] = value
    return x


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"features": wrong(4, np.nan)}, "row 4 holds NaN or infinite values"),
        ({"features": wrong(0, np.inf)}, "row 0 holds NaN or infinite values"),
        ({"features": np.ones_like(X)}, "features are the same in all rows"),
        ({"features": X.astype(np.float64)}, "features are float64 .* give float32"),
        ({"features": X[:0], "labels": LABELS[:0]}, "features are float32 of shape"),
        (
            {"labels": np.where(np.arange(30) == 3, 77, LABELS)},
            "1 classes have a single sample, .* 77: leave",
        ),
        ({"labels": np.arange(30)}, "30 classes have a single sample, .* 0, 1, 2, 3, 4, ...: leave"),
        ({"labels": LABELS + 2**31}, "labels must be below 2.31, got 2147483657"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"train_config": replace(TRAIN, keep="best")}, "keep='best' needs validation"),
    ],
)
def test_bad_inputs_are_refused(change, match):
    given = {"key": KEY, "features": X, "labels": LABELS, "config": CONFIG, "train_config": TRAIN, **change}
    with pytest.raises(ValueError, match=match):
        train_delta(**given)


def test_labels_that_do_not_fit_are_refused(as_users_have_it):
    with pytest.raises(ValueError, match="labels are int64 of shape"):
        training._check(X, LABELS[:4], TRAIN, False, 1)
    with pytest.raises(ValueError, match="labels are float32 of shape"):
        training._check(X, LABELS.astype(np.float32), TRAIN, False, 1)
