"""Crops of the photographs in the scikit-learn and scikit-image wheels."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from nemojax.photographs import REPORT, SEARCH, sample_photographs
from nemojax.preprocess import Preprocess

SMALL = Preprocess(resolution=32)


@pytest.fixture(scope="module")
def found():
    for package in ("sklearn", "skimage"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return sample_photographs(jax.random.key(0), SMALL, calibration=8, search=12, report=9)


def photographs(part) -> set[str]:
    return {name.split("[")[0] for name in part.names}


def test_report_shows_other_photographs_than_the_search(found):
    parts, search_names, report_names = found
    assert not set(search_names) & set(report_names)
    assert photographs(parts.calibration) == photographs(parts.search) == set(search_names) == set(SEARCH)
    assert photographs(parts.report) == set(report_names) == set(REPORT)
    assert not set(SEARCH.values()) & set(REPORT.values())


def test_crops_are_what_their_names_say(found):
    for part, files in [(found.parts.search, SEARCH), (found.parts.report, REPORT)]:
        sides = []
        for image, name in zip(part.images, part.names, strict=True):
            subject, box = name.rstrip("]").split("[")
            (top, bottom), (left, right) = (map(int, span.split(":")) for span in box.split(", "))
            package, inside = files[subject].split("/", 1)
            folder = importlib.util.find_spec(package).submodule_search_locations[0]
            photo = Image.open(f"{folder}/{inside}")
            assert photo.mode == "RGB"
            assert 0 <= left < right <= photo.width
            assert 0 <= top < bottom <= photo.height
            assert right - left == bottom - top
            sides.append((right - left) / min(photo.size))
            crop = photo.crop((left, top, right, bottom)).resize((32, 32), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(image, (np.asarray(crop, np.float32) - 127) / 128)
        assert 0.34 < min(sides) < 0.55
        assert 0.65 < max(sides) <= 1


def test_same_key_same_crops(found):
    again = sample_photographs(jax.random.key(0), SMALL, calibration=8, search=12, report=9)
    np.testing.assert_array_equal(again.parts.report.images, found.parts.report.images)
    other = sample_photographs(jax.random.key(1), SMALL, calibration=8, search=12, report=9)
    assert other.parts.search.names != found.parts.search.names
    assert not set(found.parts.calibration.names) & set(found.parts.search.names)
    assert found.parts.search.labels is None


def test_packages_are_not_imported():
    code = (
        "import jax, sys, nemojax\n"
        "sizes = dict(calibration=1, search=1, report=1)\n"
        "nemojax.sample_photographs(jax.random.key(0), nemojax.Preprocess(8), **sizes)\n"
        "assert not {'sklearn', 'skimage'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="search must be at least 1 crop, got 0"):
        sample_photographs(jax.random.key(0), SMALL, search=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"astronaut.png is not installed: pip install 'frugaljax\[pretrained\]'"
    ):
        sample_photographs(jax.random.key(0), SMALL)
