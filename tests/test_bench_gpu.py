"""benchmarks/gpu.py, which is for a machine with an accelerator, works at tiny sizes on any."""

import jax
import pytest

from benchmarks import gpu


@pytest.fixture(autouse=True)
def two_rounds(monkeypatch):
    monkeypatch.setattr(gpu, "ROUNDS", 2)


@pytest.fixture
def as_in_a_benchmark():
    """Without the strictness that tests have: flax's networks need the usual promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_a_copy_has_a_bandwidth_and_placements_are_held_against_it():
    bandwidth = gpu.bandwidth_bytes_per_s(2**22)
    assert 1e6 < bandwidth < 1e14
    row = gpu.placements((10, 20), bandwidth)
    assert list(row["placements_per_s"]) == ["10 at once", "20 at once"]
    n = 376  # operations of fine BERT; 3 levels
    for name, rate in row["placements_per_s"].items():
        assert rate > 0
        bytes_each = row["fraction_of_bandwidth"][name] * bandwidth / rate
        assert bytes_each == pytest.approx(8 * n + 11 * n, rel=0.1)  # wishes; results and what is under way


def test_episodes_are_held_against_the_bandwidth():
    row = gpu.episodes(("prototypes",), 20, 1e9)
    rate = row["episodes_per_s"]["prototypes"]
    assert row["fraction_of_bandwidth"]["prototypes"] == pytest.approx(rate * 5 * 16 * 512 * 4 / 1e9)


@pytest.mark.long
def test_candidates_under_both_lowerings(as_in_a_benchmark):
    row = gpu.candidates(32, 2, 2)
    assert set(row["candidates_per_s"]) == {
        f"{a}, {b}" for a in ("xla", "cpu") for b in ("one by one", "vmapped")
    }
    assert row["lowering"]["default"] == ("cpu" if jax.default_backend() == "cpu" else "xla")
    assert row["lowering"]["faster"] in ("cpu", "xla")
    assert all(error < 1e-4 for error in row["relative_error"].values())


@pytest.mark.long
def test_images_of_a_detector(as_in_a_benchmark):
    row = gpu.detector_images(64, 2, 2)
    rates = row["images_per_s"]
    assert row["fraction_of_fp32_forward"] == pytest.approx(rates["regions"] / rates["fp32 forward"])
    assert row["fraction_of_fp32_forward"] < 1.5  # the maps are a part of the work
