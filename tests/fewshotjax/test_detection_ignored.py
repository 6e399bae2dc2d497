"""Crowds and difficult objects are no background: which boxes lie on them, by loops; what then counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import Truth, detector_loss, init_detector, on_ignored, pyramid_from_function
from fewshotjax.detection.anchors import AnchorConfig
from fewshotjax.detection.boxes import pairwise_ioa
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data import boxed
from fewshotjax.detection.detector import Net
from fewshotjax.detection.finder import Examples
from fewshotjax.detection.metrics.overlap import on_crowds
from fewshotjax.detection.region_losses import region_targets
from fewshotjax.detection.regions import Regions
from fewshotjax.detection.rpn_losses import rpn_sums
from fewshotjax.detection.support import SupportBoxes
from fewshotjax.detection.targets import support_targets
from fewshotjax.detection.training import fixed
from fewshotjax.detection.training.step import mirrored
from fewshotjax.detection.windows import WindowConfig, WindowFinder
from fewshotjax.repmet_model import RepMetConfig

HEAD = RepMetConfig(modes=1, embedding=None, posterior="softmax", background=True)
CONFIG = DetectorConfig(
    channels=2,
    anchors=AnchorConfig(strides=(8,)),
    before_nms=8,
    proposals=4,
    roi_size=1,
    hidden=(2,),
    head=HEAD,
    rpn_samples=1_000,  # all
    rpn_share=0.9,
    ignored_overlap=0.6,
)


def shared(a, b):
    return np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0))


def area(a):
    return np.prod(a[2:] - a[:2])


def iou(a, b):
    return shared(a, b) / (area(a) + area(b) - shared(a, b)) if area(a) and area(b) else 0.0


def lies_on(box, regions, inside, least):
    return any(
        area(box) > 0 and (shared(box, one) / area(box) >= inside or iou(box, one) >= least)
        for one in regions
        if area(one)
    )


def some_boxes(rng, count):
    low = rng.integers(0, 24, (count, 2))
    return np.concatenate([low, low + rng.integers(1, 17, (count, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_what_lies_on_a_crowd_is_told_as_by_a_loop(seed):
    rng = np.random.default_rng(seed)
    boxes, crowds = some_boxes(rng, 60), some_boxes(rng, 4)
    boxes[:2] = [[8, 8, 16, 16], [0, 0, 0, 0]]  # inside one and equal to its share; padding
    crowds[0], mask = [0, 0, 16, 16], np.array([True, True, False, True])
    share = np.array([[shared(a, b) / area(a) if area(a) else 0.0 for b in crowds] for a in boxes])
    np.testing.assert_allclose(pairwise_ioa(jnp.asarray(boxes), jnp.asarray(crowds)), share, rtol=1e-6)
    for inside, least in ((0.7, 0.5), (1.0, 0.3), (0.25, 0.9)):
        found = on_ignored(*map(jnp.asarray, (boxes, crowds, mask)), inside=inside, iou=least)
        wanted = [lies_on(box, crowds[mask], inside, least) for box in boxes]
        assert found.tolist() == wanted
        assert on_crowds(boxes, crowds[mask], inside, least).tolist() == wanted
        assert 0 < sum(wanted) < 60
    assert not on_crowds(boxes, np.zeros((0, 4), np.float32), 0.5, 0.5).any()


def test_anchors_on_a_crowd_have_no_loss():
    rng = np.random.default_rng(0)
    places, truth = some_boxes(rng, 80), some_boxes(rng, 3)
    truth[2] = [0, 0, 20, 20]
    shown, ignored = np.array([True, False, False]), np.array([False, True, True])
    logits = rng.normal(size=80).astype(np.float32)
    codes = np.zeros((80, 4), np.float32)
    given = [*map(jnp.asarray, (places, logits, codes, truth, shown))]
    sums = jax.jit(rpn_sums, static_argnums=(1, 7))
    found, plain = (
        jax.tree.map(float, sums(jax.random.key(0), CONFIG, *given, (40, 40), some))
        for some in (jnp.asarray(ignored), None)
    )
    with_object = np.array([iou(place, truth[0]) for place in places])
    best = np.arange(80) == np.argmax(with_object)
    front = (with_object >= CONFIG.rpn_foreground) | (best & (with_object > 0))
    back = ~front & (with_object < CONFIG.rpn_background)
    over = np.array([lies_on(place, truth[1:], 0.6, CONFIG.rpn_background) for place in places])
    assert (back & over).any()
    assert plain.sampled == (front | back).sum()
    assert found.sampled == (front | (back & ~over)).sum()
    assert found.foreground == plain.foreground == front.sum()
    losses = np.log1p(np.exp(np.where(front, -logits, logits)))
    np.testing.assert_allclose(found.objectness, losses[front | (back & ~over)].sum(), rtol=1e-5)


def test_regions_on_a_crowd_have_no_loss_unless_they_are_objects():
    truth = np.array([[0, 0, 10, 10], [0, 0, 30, 30]], np.float32)
    proposals = np.array([[0, 0, 10, 11], [5, 15, 20, 28], [25, 0, 39, 10], [0, 0, 0, 0]], np.float32)
    mask, labels = np.array([True, True, True, False]), np.array([1, 0], np.int32)
    shown = np.array([True, False])
    given = [*map(jnp.asarray, (proposals, mask, truth, labels, shown))]
    targets = jax.jit(region_targets, static_argnums=(0, 1))
    found = targets(CONFIG, 3, *given, jnp.asarray(~shown))
    # An object; on the crowd; beside it (IoA 5/14); padding; the true box, and the crowd, which is none.
    assert found.mask.tolist() == [True, False, True, False, True, False]
    assert found.labels.tolist() == [1, 3, 3, 3, 1, 3]
    assert found.foreground.tolist() == [True, False, False, False, True, False]
    assert targets(CONFIG, 3, *given).mask.tolist() == [True, True, True, False, True, False]


def test_support_photographs_have_crowds_too():
    proposals = np.array([[[0, 0, 10, 10], [12, 12, 20, 20], [20, 0, 30, 10]]] * 2, np.float32)
    zeros = jnp.zeros((2, 3, 2))
    regions = Regions(
        *(jnp.asarray(proposals), jnp.asarray(proposals), zeros, zeros[..., 0], jnp.ones((2, 3), bool))
    )
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float32)
    crowd = np.zeros((2, 1, 4), np.float32)
    crowd[0, 0] = [0, 0, 22, 22]
    shown = SupportBoxes(
        *(jnp.zeros((2, 2)), jnp.asarray(boxes), jnp.arange(2), jnp.arange(2), regions, jnp.full(2, -1)),
        ignored=jnp.asarray(crowd),
    )
    targets = jax.jit(support_targets, static_argnums=(1, 2))
    found = targets(shown, 2, CONFIG)
    assert found.mask.tolist() == [[True, False, True, True], [True, True, True, True]]
    assert targets(shown._replace(ignored=None), 2, CONFIG).mask.all()


def photographs():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    images[:, :, [0, -1]] = np.arange(4)[:, None, None, None]  # told by their first pixel, mirrored or not
    boxes = [[[0, 0, 8, 8], [4, 4, 16, 16]], [[1, 2, 9, 9]], [[0, 0, 5, 5]], []]
    found = boxed(images, [np.array(one) for one in boxes], [[0, 1], [1], [0], []], ("a", "b"))
    found.crowd[0, 1], found.difficult[1, 0] = True, True
    return found


def test_fixed_images_hand_on_what_is_to_be_ignored():
    source = fixed(photographs())
    found = source.draw([0], 0, 4)
    order = np.argsort([one[0, 0, 0] for one in found.images])  # images are told by their first pixel
    assert found.ignored[order].tolist() == [[False, True], [True, False], [False, False], [False, False]]
    assert found.shown[order].tolist() == [[True, False], [False, False], [True, False], [False, False]]
    np.testing.assert_array_equal(found.boxes[order][1, 0], [1, 2, 9, 9])
    trained = fixed(photographs(), difficult="train").draw([0], 0, 4)
    assert (trained.shown.sum(), trained.ignored.sum()) == (3, 1)
    assert fixed(photographs().take([2, 3])).draw([0], 0, 2).ignored is None
    assert source.told["data"] != fixed(photographs(), difficult="train").told["data"]
    truth = Truth(*map(jnp.asarray, (found.boxes, found.labels, found.shown, found.ignored)))
    pictures, moved = mirrored(jax.random.key(1), jnp.asarray(found.images), truth)
    turned = (np.asarray(pictures) != found.images).any(axis=(1, 2, 3))
    assert 0 < turned.sum() < 4
    wanted = np.where(
        (turned[:, None] & (found.shown | found.ignored))[..., None],
        np.stack(
            [16 - found.boxes[..., 2], found.boxes[..., 1], 16 - found.boxes[..., 0], found.boxes[..., 3]], -1
        ),
        found.boxes,
    )
    np.testing.assert_array_equal(moved.boxes, wanted)


@pytest.mark.usefixtures("as_users_have_it")
def test_other_words_for_difficult_are_refused():
    with pytest.raises(ValueError, match="difficult must be 'ignore' or 'train', got 'drop'"):
        fixed(photographs(), difficult="drop")


def test_the_loss_takes_them():
    """Traced, not run: parts of it are run above."""

    def network(params, x):
        return (x[:, ::8, ::8] * params[None, None, None],)

    pyramid = pyramid_from_function(network, Preprocess(16), jnp.ones(3), strides=(8,))
    detector = init_detector(jax.random.key(0), pyramid, CONFIG, ("a", "b"))
    assert isinstance(detector.net, Net)
    found = fixed(photographs()).draw([0], 0, 4)
    truth = Truth(*map(jnp.asarray, (found.boxes, found.labels, found.shown, found.ignored)))
    jax.eval_shape(
        lambda params: detector_loss(
            jax.random.key(0), params, detector.net, jnp.asarray(found.images), truth
        ),
        detector.params,
    )


def test_windows_on_a_crowd_are_no_background():
    finder, looked_at = object.__new__(WindowFinder), []
    finder.config = WindowConfig(background=3)

    def read(sights, boxes):
        looked_at.append(boxes)
        return np.ones((*boxes.shape[:2], 2), np.float32)

    finder._read = read
    windows = np.array([[0, 0, 10, 10], [12, 0, 22, 10], [20, 0, 30, 10], [40, 40, 50, 50]], np.float32)
    shown = Examples(
        *(np.zeros((1, 2), np.float32), np.array([[40, 40, 50, 50]], np.float32), np.zeros(1, np.int32)),
        *(np.zeros(1, np.int32), None, np.full((1, 2), 64, np.float32)),
        np.array([[[10, 0, 24, 12]]], np.float32),
    )
    _, there = finder._beside(shown, windows)
    np.testing.assert_array_equal(looked_at[0][there], windows[[0, 2]])
    _, there = finder._beside(shown._replace(ignored=None), windows)
    np.testing.assert_array_equal(looked_at[1][there], windows[:3])


def test_crowds_of_a_photograph_are_told_without_padding():
    boxes = np.array([[[0, 0, 4, 4], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2], np.float32)
    none, labels = np.zeros((0, 1), np.float32), np.zeros(0, np.int32)
    shown = Examples(
        none, np.zeros((0, 4), np.float32), labels, labels, None, np.ones((2, 2), np.float32), boxes
    )
    assert shown.ignored_in(0).tolist() == [[0, 0, 4, 4]]
    assert len(shown.ignored_in(1)) == len(shown._replace(ignored=None).ignored_in(0)) == 0
