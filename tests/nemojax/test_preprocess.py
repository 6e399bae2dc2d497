"""Preprocessing's choices: each fit against torchvision or NumPy, channels, refusals."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from nemojax.preprocess import FITS, INTERPOLATIONS, Preprocess, decode

SIZES = [(90, 61), (61, 90), (57, 200), (40, 40), (33, 47), (301, 302)]
MEAN, SCALE = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def transforms():
    torch = pytest.importorskip("torch")
    library = torch.library.Library("torchvision", "DEF")  # without it this build's import fails
    try:
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # another test did
    yield pytest.importorskip("torchvision").transforms
    del library  # kept alive until here


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resolution", "shorter"), [(32, 36), (33, 40), (32, 32)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_torchvision_to_the_bit(transforms, size, resolution, shorter, interpolation):
    how = transforms.InterpolationMode(interpolation)
    theirs = transforms.Compose(
        [transforms.Resize(shorter, interpolation=how), transforms.CenterCrop(resolution)]
    )
    ours = Preprocess(
        resolution,
        MEAN,
        SCALE,
        crop_ratio=shorter / resolution,
        interpolation=interpolation,
        fit="torchvision",
    )
    assert ours.shorter_side == shorter
    want = np.asarray(theirs(photo(*size)))
    np.testing.assert_array_equal(ours.pixels(photo(*size)), want)
    tensor = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(*(np.array(x) / 255 for x in (MEAN, SCALE)))]
    )
    found = ours(photo(*size))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tensor(Image.fromarray(want)).permute(1, 2, 0).numpy(), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_central_square_is_cut_before_it_is_resized(size):
    width, height = size
    found = Preprocess(24, crop_ratio=56 / 24, fit="central_square").pixels(photo(*size))
    side = int(24 / (24 + 32) * min(size))  # as TensorFlow's EfficientNet writes it
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = Image.fromarray(np.asarray(photo(*size))[top : top + side, left : left + side])
    np.testing.assert_array_equal(found, square.resize((24, 24), Image.Resampling.BICUBIC))


def test_stretch_takes_the_whole_picture():
    found = Preprocess(16, interpolation="bilinear", fit="stretch").pixels(photo(90, 61))
    np.testing.assert_array_equal(found, photo(90, 61).resize((16, 16), Image.Resampling.BILINEAR))
    # twice as wide as high, and each half of one colour: so is the result
    halves = Image.fromarray(np.repeat([[[0] * 3] * 32 + [[255] * 3] * 32], 32, axis=0).astype(np.uint8))
    flat = Preprocess(16, interpolation="nearest", fit="stretch").pixels(halves)
    np.testing.assert_array_equal(flat[:, :, 0], np.repeat([[0] * 8 + [255] * 8], 16, axis=0))


def test_as_is_changes_no_pixel_and_refuses_other_sizes():
    whole = Preprocess(32, mean=0.0, scale=1.0, fit="as_is")
    np.testing.assert_array_equal(whole(photo(32, 32)), np.asarray(photo(32, 32), np.float32))
    with pytest.raises(ValueError, match=r"is 32x33, not 32x32: resize it, or set another fit"):
        whole(photo(32, 33))


def test_channels_have_their_own_mean_and_scale():
    pixels = np.asarray(photo(20, 20))
    own = Preprocess(16, MEAN, SCALE).normalize(pixels)
    for c in range(3):
        one = Preprocess(16, MEAN[c], SCALE[c]).normalize(pixels)
        np.testing.assert_array_equal(own[..., c], one[..., c])
    batch = np.stack([pixels, pixels[::-1]])
    np.testing.assert_array_equal(Preprocess(16, MEAN, SCALE).normalize(batch)[0], own)


def test_it_is_frozen_and_hashed_by_value():
    a, b = Preprocess(16, MEAN, list(SCALE)), Preprocess(16, list(MEAN), SCALE)
    assert a == b
    assert hash(a) == hash(b)
    assert a.scale == SCALE
    assert a != Preprocess(16, MEAN, SCALE, interpolation="bilinear")
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.resolution = 3
    assert Preprocess(mean=1.0, scale=[2.0]) == Preprocess(mean=[1.0], scale=2.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (1.0, 2.0)}, r"mean must be one number or three \(red, green, blue\), got \(1.0, 2.0\)"),
        ({"scale": (1.0, 2.0, float("nan"))}, "scale must be one number or three"),
        ({"scale": (1.0, 0.0, 2.0)}, r"scale must be above 0, got \(1.0, 0.0, 2.0\)"),
        ({"interpolation": "area"}, f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got 'area'"),
        ({"fit": "crop"}, f"fit must be one of {', '.join(FITS)}, got 'crop'"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**fields)


@pytest.mark.parametrize("fit", ["shorter_side", "torchvision"])
def test_a_long_thin_picture_is_refused_before_it_is_resized(fit):
    with pytest.raises(ValueError, match="is 300000x1, too long and thin"):
        Preprocess(fit=fit)(Image.new("RGB", (300_000, 1)))


def test_deep_channels_are_refused_not_clipped():
    for deep in (
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)),
        Image.fromarray(np.full((8, 8), 0.5, np.float32)),
    ):
        file = io.BytesIO()
        deep.save(file, "TIFF")
        with pytest.raises(ValueError, match=r"has channels of mode '.*', not of 8 bits: convert it"):
            decode(file.getvalue())
