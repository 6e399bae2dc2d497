"""Training of a tiny detector: the first step by hand, resuming bit for bit, what is drawn, what is kept."""

import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.backbones.convolution import convolution
from fewshotjax.detection import AnchorConfig
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data import MosaicConfig, boxed
from fewshotjax.detection.detector import feature_maps, init_detector, pool, propose, rpn, trunk
from fewshotjax.detection.losses import Truth, detector_loss
from fewshotjax.detection.pyramids import pyramid, pyramid_from_function
from fewshotjax.detection.training import DetectorTrainConfig, fixed, mosaics, train_detector
from fewshotjax.detection.training.ahead import Ahead
from fewshotjax.detection.training.sources import shuffled
from fewshotjax.detection.training.step import (
    Images,
    begin,
    in_precision,
    joined,
    learning_rate,
    mirrored,
    optimizer,
    run,
    split,
)
from fewshotjax.repmet_model import RepMetConfig
from fewshotjax.training import loop as shared, progress

SIDE = 32
HEAD = RepMetConfig(modes=1, embedding=8, posterior="softmax", background=True, linear_weight=1.0)
DETECTOR = DetectorConfig(
    channels=8,
    anchors=AnchorConfig(strides=(4, 8), scale=2.5),
    before_nms=64,
    proposals=12,
    roi_size=3,
    hidden=(16,),
    head=HEAD,
    rpn_foreground=0.5,
    rpn_samples=16,
    hardest=None,
)
CONFIG = DetectorTrainConfig(
    epochs=2,
    batch=2,
    draw_steps=3,
    learning_rate=0.01,
    warmup_epochs=0.0,
    weight_decay=0.1,
    clip=0.5,
    ema=0.5,
    keep="best",
)  # 6 steps an epoch of 12 images
EVERY = {"validation": lambda detector: 0.5}


def levels(params, x):
    """Patches of 4 x 4, a 3 x 3 convolution, and the same once more on 2 x 2 of its cells."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 4, 4, width // 4, 4, channels).transpose(0, 1, 3, 2, 4, 5)
    x = jax.nn.relu(x.reshape(batch, height // 4, width // 4, -1) @ params["patch"])
    fine = jax.nn.relu(convolution(x, params["fine"]))
    coarse = fine.reshape(batch, height // 8, 2, width // 8, 2, -1).mean((2, 4))
    return fine, jax.nn.relu(convolution(coarse, params["coarse"]))


def made(frozen=False, config=DETECTOR):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "patch": 0.15 * jax.random.normal(keys[0], (48, 8)),
        "fine": 0.15 * jax.random.normal(keys[1], (3, 3, 8, 8)),
        "coarse": 0.15 * jax.random.normal(keys[2], (3, 3, 8, 8)),
    }
    found = pyramid_from_function(levels, Preprocess(SIDE), params, strides=(4, 8), frozen=frozen)
    return init_detector(keys[3], found, config, ("red", "blue"))


@pytest.fixture(scope="module")
def detector():
    return made()


def squares(seed, count, per_image=1):
    """Noise with squares whose colour is their class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, SIDE, SIDE, 3)).astype(np.uint8)
    boxes, labels = [], []
    for image in images:
        size = rng.integers(9, 15, per_image)
        low = np.stack([rng.integers(0, SIDE - size), rng.integers(0, SIDE - size)], axis=1)
        kinds = rng.integers(0, 2, per_image)
        for (x, y), s, kind in zip(low, size, kinds, strict=True):
            image[y : y + s, x : x + s] = (230, 30, 30) if kind == 0 else (30, 30, 230)
        boxes.append(np.concatenate([low, low + size[:, None]], axis=1))
        labels.append(kinds.tolist())
    return boxed(images, boxes, labels, ("red", "blue"))


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def lines(history):
    return [(line.number, line.losses, line.validation_error) for line in history]


class StoppedError(Exception):
    pass


def test_a_stopped_training_goes_on_bit_for_bit(detector, tmp_path, monkeypatch):
    """After any chunk, with chunks of any length and within a draw, in one compilation."""
    part, key, file = fixed(squares(0, 12)), jax.random.key(3), tmp_path / "train.state"
    errors, later = iter([0.5, 0.75]), iter([0.5, 0.75])
    whole = train_detector(key, detector, part, CONFIG, validation=lambda _: next(errors))
    assert whole.finished
    compiled = run._cache_size()
    stops, chunks, seen = [1, 2, 3, 6, 8, 12], [], []

    def stop(chunk):
        chunks.append(chunk.done)
        if stops and chunk.done >= stops[0]:
            stops.pop(0)
            raise StoppedError

    for every in (2, 1, 3, 5, 4, 9):
        with pytest.raises(StoppedError):
            train_detector(
                key,
                detector,
                part,
                CONFIG,
                validation=lambda _: next(later),
                on_chunk=stop,
                on_epoch=seen.append,
                every=every,
                checkpoint=file,
            )
    monkeypatch.setattr("fewshotjax.detection.training.loop.run", None)  # all is done: nothing is run
    again = train_detector(key, detector, part, CONFIG, **EVERY, checkpoint=file)
    assert chunks == sorted(chunks)
    assert run._cache_size() == compiled
    assert equal(whole.detector.params, again.detector.params)
    assert lines(whole.history) == lines(again.history) == lines(seen)
    assert [line.validation_error for line in seen] == [0.5, 0.75]
    assert whole.settings == again.settings
    assert detector.net == whole.detector.net
    with pytest.raises(ValueError, match="was written with other settings: config was"):
        train_detector(key, detector, part, replace(CONFIG, ema=0.1), **EVERY, checkpoint=file)
    with pytest.raises(ValueError, match="was written with other settings: source was"):
        train_detector(key, detector, fixed(squares(1, 12)), CONFIG, **EVERY, checkpoint=file)


def test_the_best_epoch_is_kept_and_a_time_limit_gives_what_there_is(detector, tmp_path, monkeypatch):
    part, key, file, kept = fixed(squares(0, 12)), jax.random.key(3), tmp_path / "x", []
    monkeypatch.setattr(shared, "CHECKPOINT_S", 0.0)

    def validation(found):
        kept.append(found.params)
        return len(kept) / 4  # the first is the best

    best = train_detector(key, detector, part, CONFIG, validation=validation)
    assert equal(best.detector.params, kept[0])
    assert not equal(kept[0], kept[1])
    states = []
    while not states or not states[-1].finished:
        states.append(
            train_detector(key, detector, part, CONFIG, **EVERY, checkpoint=file, time_limit_s=0.0, every=4)
        )
    assert len(states) > 3
    assert states[0].history == ()
    assert not states[0].finished
    assert equal(states[-1].detector.params, kept[0])  # 0.5 twice: the first of equals
    with pytest.raises(ValueError, match="validation gave nan"):
        train_detector(key, detector, part, CONFIG, validation=lambda _: float("nan"))


def test_divergence_is_told(detector):
    part = fixed(squares(0, 12))
    params = jax.tree.map(lambda leaf: leaf.at[...].set(jnp.nan), detector.params["box"])
    broken = replace(detector, params={**detector.params, "box": params})
    with pytest.raises(ValueError, match=r"diverged in epoch 1: lower learning_rate, 0\.01"):
        train_detector(jax.random.key(0), broken, part, CONFIG, **EVERY)


def test_the_first_step_by_hand(detector):
    """Clipped, decayed, momentum's first step is the gradient itself; the mean of one is the weights."""
    part, key = fixed(squares(0, 12)), jax.random.key(1)
    config = CONFIG
    found = part.draw([7], 0, 6)
    truth = Truth(*(jnp.asarray(one) for one in (found.boxes, found.labels, found.shown)))
    drawn = Images(jnp.asarray(found.images), truth)
    net, params = detector.net, detector.params
    trained, rest = split(net, params)
    assert equal(joined(net, trained, rest), params)
    state = run(key, begin(net, params, config, 12), rest, drawn, jnp.asarray(1), net, config, 12)
    k_mirror, k_loss = jax.random.split(jax.random.fold_in(key, 0))
    first = jax.tree.map(lambda leaf: leaf[:2], drawn)
    images, truth = mirrored(k_mirror, first.images, first.truth)

    def loss(trained):
        return detector_loss(k_loss, joined(net, trained, rest), net, images, truth)

    (_, told), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained)
    for one, other in zip(state.losses, told, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(slopes)))
    assert norm > 0.5
    for was, g, now in zip(*map(jax.tree.leaves, (trained, slopes, state.params)), strict=True):
        decay = 0.1 * was if was.ndim > 1 else 0.0 * was
        np.testing.assert_allclose(now, was - 0.01 * (g * 0.5 / norm + decay), rtol=1e-4, atol=1e-6)
    assert equal(state.kept, state.params)
    assert state.step == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rates_of_parts_and_what_decays(name):
    config = replace(CONFIG, optimizer=name, clip=None, warmup_epochs=0.0, weight_decay=0.5, pyramid_rate=0.3)
    rule = optimizer(config, 100)
    params = {
        part: {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full((2, 3), 2.0), "scale": jnp.full(3, 2.0)}
        for part in ("trunk", "offsets", "pyramid")
    }
    slopes = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(rule.update)(slopes, rule.init(params), params)
    for part, rate in (("trunk", 1.0), ("offsets", 0.01), ("pyramid", 0.3)):
        for leaf, decay in (("kernel", 1.0), ("bias", 0.0), ("scale", 0.0)):
            np.testing.assert_allclose(updates[part][leaf], -0.01 * rate * (1 + decay), rtol=1e-4)


def test_learning_rates_rise_and_fall():
    config = replace(CONFIG, epochs=4, warmup_epochs=1.0, learning_rate=0.5)
    cosine, step = learning_rate(config, 40), learning_rate(replace(config, schedule="step"), 40)
    rise = [0.05 * i for i in range(10)]
    wanted = rise + [0.25 * (1 + np.cos(np.pi * i / 30)) for i in range(30)]
    np.testing.assert_allclose([cosine(i) for i in range(40)], wanted, atol=1e-6)
    wanted = rise + [0.5] * 14 + [0.05] * 10 + [0.005] * 6  # drops after 24 and 34
    np.testing.assert_allclose([step(i) for i in range(40)], wanted, atol=1e-6)


def test_mirrored_images_and_boxes():
    part = squares(4, 16, per_image=2)
    shown = np.arange(32).reshape(16, 2) % 3 > 0
    truth = Truth(jnp.asarray(part.boxes * shown[..., None]), jnp.asarray(part.labels), jnp.asarray(shown))
    images, moved = mirrored(jax.random.key(0), jnp.asarray(part.images), truth)
    flips = 0
    for i in range(16):
        flip = not np.array_equal(images[i], part.images[i])
        flips += flip
        np.testing.assert_array_equal(images[i], part.images[i][:, ::-1] if flip else part.images[i])
        for g in range(2):
            x1, y1, x2, y2 = part.boxes[i, g]
            wanted = (SIDE - x2, y1, SIDE - x1, y2) if flip else (x1, y1, x2, y2)
            np.testing.assert_array_equal(moved.boxes[i, g], wanted if shown[i, g] else np.zeros(4))
    assert 3 < flips < 13


def test_what_is_trained_and_in_which_precision():
    """Of a frozen pyramid there is no state; it and the head stay float32."""
    whole = made(frozen=True)
    state = begin(whole.net, whole.params, CONFIG, 6)
    assert "pyramid" not in state.params
    assert equal(joined(whole.net, *split(whole.net, whole.params)), whole.params)
    half = in_precision(whole.net, whole.params, jnp.bfloat16)
    assert half["trunk"]["dense_0"]["kernel"].dtype == jnp.bfloat16
    assert half["pyramid"]["params"]["fine"].dtype == half["repmet"]["modes"].dtype == jnp.float32
    norms = {**whole.params["pyramid"], "batch_stats": {"mean": jnp.ones(2)}}
    params = {**whole.params, "pyramid": norms}
    half = in_precision(replace(whole.net, frozen=False), params, jnp.bfloat16)
    assert half["pyramid"]["params"]["fine"].dtype == jnp.bfloat16
    assert half["pyramid"]["batch_stats"]["mean"].dtype == jnp.float32
    assert DetectorTrainConfig().dtype == jnp.float32  # "auto" on a CPU


@pytest.mark.long
@pytest.mark.parametrize("frozen", [True, False])
def test_half_precision_and_frozen_pyramids_train(frozen):
    """The weights stay float32, the losses are about the same; a frozen pyramid stays to the bit."""
    whole, part = made(frozen=frozen), fixed(squares(0, 12))
    config, key = replace(CONFIG, epochs=1), jax.random.key(0)
    half = replace(config, precision="bfloat16")
    found, exact = (train_detector(key, whole, part, one, **EVERY) for one in (half, config))
    assert equal(found.detector.params["pyramid"], whole.params["pyramid"]) == frozen
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found.detector.params))
    assert not equal(found.detector.params["trunk"], exact.detector.params["trunk"])
    assert found.settings["precision"] == "bfloat16"
    first, second = (one.history[0].losses["loss"] for one in (found, exact))
    np.testing.assert_allclose(first, second, rtol=0.1)


@pytest.mark.parametrize(("total", "count"), [(7, 3), (5, 12), (4, 4)])
def test_all_images_come_once_before_any_comes_again(total, count):
    rows = np.concatenate([shuffled([1, 2], i * count, count, total) for i in range(2 * total)])
    passes = rows.reshape(-1, total)
    assert (np.sort(passes, axis=1) == np.arange(total)).all()
    assert len({tuple(one) for one in passes}) > 1
    assert not np.array_equal(rows[:total], shuffled([1, 3], 0, total, total))


def test_draws_are_functions_of_seed_and_number():
    some = squares(0, 12)
    for source in (
        fixed(some),
        fixed(some, balanced=True),
        mosaics(some, MosaicConfig(grid=2), novel=("green",)),
        mosaics(some, MosaicConfig(grid=1), novel=(), balanced=False),
    ):
        first, again = source.draw([1, 2], 3, 8), source.draw([1, 2], 3, 8)
        assert equal(tuple(first), tuple(again))
        for other in (source.draw([1, 2], 4, 8), source.draw([1, 3], 3, 8)):
            assert not np.array_equal(first.images, other.images)
        assert first.images.shape[1:] == source.size
        assert first.boxes.shape == (8, source.per_image, 4)
        assert first.shown.all()
    assert source.size == (SIDE, SIDE, 3)


def test_balanced_draws_show_classes_alike():
    some = squares(0, 12)
    labels = np.zeros((12, 1), np.int32)
    labels[:2] = 1
    rare = replace(some, labels=labels)
    found = fixed(rare, balanced=True).draw([0], 0, 1000).labels
    assert 0.45 < found.mean() < 0.55
    assert 0.1 < fixed(rare).draw([0], 0, 1000).labels.mean() < 0.2
    crowd = np.zeros((12, 1), bool)
    crowd[0] = True
    found = fixed(replace(some, crowd=crowd)).draw([0], 0, 12)
    assert found.shown.sum() == 11
    assert found.ignored.sum() == 1
    assert not (found.shown & found.ignored).any()


def test_novel_classes_and_other_sources_are_refused(detector):
    some = squares(0, 12)
    with pytest.raises(ValueError, match="images show 1 novel classes, such as 'red'"):
        mosaics(some, novel=("red",))
    with pytest.raises(ValueError, match="images show 1 novel classes, such as 'blue'"):
        fixed(some, novel=("blue",))
    with pytest.raises(ValueError, match="of different sizes"):
        fixed(replace(some, images=tuple(some.images)))
    nothing = replace(some, boxes=0 * some.boxes, labels=0 * some.labels, shown=~some.shown)
    with pytest.raises(ValueError, match="no image has a box: set balanced=False"):
        fixed(nothing, balanced=True)
    with pytest.raises(ValueError, match="exactly one box"):
        mosaics(squares(0, 4, per_image=2), novel=())
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"source has 2 classes \(blue, red\), the detector 2"):
        train_detector(key, detector, fixed(some.only(("blue", "red"))), CONFIG, **EVERY)
    with pytest.raises(ValueError, match="source has images of 1 channels, the detector takes 3"):
        train_detector(key, detector, fixed(replace(some, images=some.images[..., :1])), CONFIG, **EVERY)
    with pytest.raises(ValueError, match="keep='best' needs validation"):
        train_detector(key, detector, fixed(some), CONFIG)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        train_detector(key, detector, fixed(some), CONFIG, **EVERY, every=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("steps_per_epoch", 0, "steps_per_epoch must be at least 1 or None, got 0"),
        ("optimizer", "adam", "optimizer must be one of sgd, adamw, got 'adam'"),
        ("learning_rate", 0.0, "learning_rate must be above 0, got 0.0"),
        ("clip", -1.0, "clip must be above 0, or None, got -1.0"),
        ("ema", 1.0, r"ema must be in \[0, 1\), got 1.0"),
        ("offsets_rate", -0.5, "offsets_rate must not be negative, got -0.5"),
        ("drops", (0.5, 1.0), r"drops must be a tuple of shares between 0 and 1, got \(0.5, 1.0\)"),
        ("drops", (0.5, 0.2), r"drops must rise, got \(0.5, 0.2\)"),
        ("warmup_epochs", 10.0, "warmup_epochs must be below epochs, got 10.0 of 10"),
    ],
)
def test_config_errors(as_users_have_it, field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(DetectorTrainConfig(), **{field: value})


def test_draws_are_made_one_ahead():
    begun, main = [], threading.get_ident()

    def make(number):
        assert threading.get_ident() != main
        begun.append(number)
        if number == 5:
            raise ValueError("five")
        return 10 * number

    with Ahead(make, 7) as ahead:
        assert [ahead[2], ahead[3], ahead[4]] == [20, 30, 40]
        with pytest.raises(ValueError, match="five"):
            ahead[5]
        assert ahead[6] == 60
    assert begun == [2, 3, 4, 5, 6]  # nothing behind the last


@pytest.mark.long
def test_it_finds_and_names_squares(capsys):
    """The loss falls, proposals meet the squares of images that were not seen, the line tells."""
    config = DetectorTrainConfig(epochs=3, batch=8, steps_per_epoch=50, learning_rate=0.02, draw_steps=25)
    source = fixed(squares(0, 200))
    with progress("squares") as line:
        found = train_detector(jax.random.key(0), made(), source, config, on_chunk=line, every=50)
    first, last = found.history[0].losses, found.history[-1].losses
    assert last["loss"] < 0.6 * first["loss"]
    told = capsys.readouterr().err
    assert "squares 150/150" in told
    assert "proposals' recall" in told
    unseen, net = squares(1, 40), found.detector.net
    maps = feature_maps(found.detector.params, net, jnp.asarray(unseen.images))
    offered = propose(net, rpn(found.detector.params, net, maps), SIDE, SIDE)
    met = 0
    for boxes, mask, (true,) in zip(offered.boxes, offered.mask, unseen.boxes, strict=True):
        for box in np.asarray(boxes)[np.asarray(mask)][:5]:
            w, h = np.minimum(box[2:], true[2:]) - np.maximum(box[:2], true[:2])
            both = max(w, 0) * max(h, 0)
            areas = np.prod(box[2:] - box[:2]) + np.prod(true[2:] - true[:2])
            if both / (areas - both) >= 0.5:
                met += 1
                break
    assert met >= 36
    assert last["right"] > 0.8


@pytest.mark.long
def test_the_default_detector_learns():
    """From scratch; a layer whose units are all dead would tell no class from another."""
    small = squares(0, 300)
    twice = np.repeat(np.repeat(np.asarray(small.images), 2, axis=1), 2, axis=2)
    labels = [row[:1] for row in small.labels]
    photographs = boxed(twice, list(2 * small.boxes), labels, small.classes)
    start = init_detector(
        jax.random.key(0),
        pyramid("resnet18_pyramid", key=jax.random.key(1), width=0.25),
        DetectorConfig(),
        small.classes,
    )
    config = DetectorTrainConfig(epochs=2, steps_per_epoch=75, ema=0.95)
    found = train_detector(jax.random.key(0), start, fixed(photographs), config)
    assert found.history[-1].losses["right"] > 0.6  # of squares; some are called background
    maps = feature_maps(found.detector.params, start.net, jnp.asarray(twice[:1]))
    places = jnp.asarray([[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 60.0, 60.0]])
    seen = pool(found.detector.params, start.net, [one[0] for one in maps], places)
    features = np.asarray(trunk(found.detector.params, start.net, seen))
    assert (features > 0).mean() > 0.2
    assert np.abs(features[0] - features[1]).mean() > 0.05
