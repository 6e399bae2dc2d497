"""Batches: order whatever the threads, every image once, masks, resuming, and errors that name the file."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemojax import data
from nemojax.data.pipeline import Plan
from nemojax.preprocess import Preprocess

pytest.importorskip("grain")
AS_IS = Preprocess(16, (1.0, 2.0, 3.0), 128.0, fit="as_is")


def arrays(count: int, side: int = 16) -> data.LabelledArrays:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return data.LabelledArrays(images, np.arange(count, dtype=np.int32) % 7, ())


class Slow:
    """Pictures of which each takes another time to read."""

    def __init__(self, count: int):
        self.of = data.ArrayPictures(arrays(count))

    def __len__(self) -> int:
        return len(self.of)

    def picture(self, index: int):
        time.sleep([0.004, 0.0, 0.002][index % 3])
        return self.of.picture(index)

    def label(self, index: int) -> int:
        return self.of.label(index)

    def where(self, index: int) -> str:
        return f"slow {index}"


def places(found) -> list[list[int]]:
    return [batch.place.tolist() for batch in found]


@pytest.mark.parametrize("batch", [1, 4, 5, 13, 20])
@pytest.mark.parametrize("seed", [None, 0])
def test_every_image_once_and_a_mask_where_there_is_none(batch, seed):
    source = arrays(13)
    found = data.batches(source, AS_IS, batch=batch, seed=seed, threads=2)
    assert len(found) == -(-13 // batch)
    assert found.pictures == 13
    seen = list(found)
    for one in seen:
        assert one.images.shape == (batch, 16, 16, 3)
        assert [x.dtype for x in one] == [np.float32, np.int32, bool, np.int64]
        np.testing.assert_array_equal(one.mask, one.place >= 0)
        assert one.mask.sum() == batch or one is seen[-1]
        assert not one.images[~one.mask].any()
        assert one.mask[: one.mask.sum()].all()  # what is filled up stands last
        np.testing.assert_array_equal(one.labels[one.mask], source.labels[one.place[one.mask]])
        want = (source.images[one.place[one.mask]].astype(np.float32) - np.float32([1, 2, 3])) / 128
        np.testing.assert_array_equal(one.images[one.mask], want)
    order = [i for one in seen for i in one.place[one.mask].tolist()]
    assert sorted(order) == list(range(13))
    assert (order == list(range(13))) == (seed is None)


@pytest.mark.parametrize("seed", [None, 3])
def test_threads_change_nothing(seed):
    runs = [
        list(data.batches(Slow(30), AS_IS, batch=8, threads=threads, seed=seed, epochs=2, augment=augment))
        for threads in (1, 4)
        for augment in ([data.CropFlip()] if seed is not None else [None])
    ]
    for one, four in zip(*runs, strict=True):
        for x, y in zip(one, four, strict=True):
            np.testing.assert_array_equal(x, y)


def test_epochs_are_shuffled_anew_and_apart():
    run = data.batches(arrays(10), AS_IS, batch=4, seed=1, epochs=3, threads=2)
    assert (len(run), run.pictures) == (9, 30)
    found = places(run)
    epochs = [[place for one in found[i : i + 3] for place in one] for i in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == [-1, -1, *range(10)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert places(data.batches(arrays(10), AS_IS, batch=4, seed=1, epochs=3, threads=1)) == found
    other = places(data.batches(arrays(10), AS_IS, batch=4, seed=2, threads=1))
    assert other != found[:3]
    dropped = data.batches(arrays(10), AS_IS, batch=4, seed=1, epochs=3, drop_remainder=True)
    assert (len(dropped), dropped.pictures) == (6, 24)
    assert places(dropped) == [found[i] for i in (0, 1, 3, 4, 6, 7)]


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_resumed_equals_uninterrupted(at):
    def fresh(threads):
        return data.batches(
            arrays(10), AS_IS, batch=4, seed=5, epochs=2, threads=threads, augment=data.CropFlip(3)
        )

    whole = list(fresh(2))
    first = fresh(3)
    for _ in range(at):
        next(first)
    state = json.loads(json.dumps(first.state()))
    second = fresh(1)
    if at == 3:
        next(second)  # wherever it stands
    second.restore(state)
    rest = list(second)
    assert len(rest) == len(whole) - at
    for x, y in zip(rest, whole[at:], strict=True):
        for a, b in zip(x, y, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(StopIteration):
        next(second)


def test_states_of_other_runs_are_refused():
    def fresh(count=10, **changes):
        return data.batches(arrays(count), AS_IS, **{"batch": 4, "seed": 5, "threads": 1, **changes})

    state = fresh().state()
    for name, other in (
        ("count", fresh(11)),
        ("batch", fresh(batch=5)),
        ("seed", fresh(seed=None)),
        ("epochs", fresh(epochs=2)),
        ("drop_remainder", fresh(drop_remainder=True)),
    ):
        with pytest.raises(ValueError, match=f"state is of batches with another {name} than"):
            other.restore(state)
    run = fresh()
    next(run)
    for wrong in ({"next_index": 99}, {"next_index": "a"}, {}, 3, None):
        with pytest.raises(ValueError, match=r"state has the position .*, which these lack"):
            run.restore({**state, "position": wrong})
    assert places(run) == places(fresh())[1:]  # as if nothing had happened


def test_pictures_on_disk(tmp_path):
    small = Preprocess(16)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 255, (20 + i, 30, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{i}.png")
    Image.fromarray(noise).convert("L").save(tmp_path / "ant" / "0.png")
    Image.fromarray(noise).convert("CMYK").save(tmp_path / "ant" / "1.png", "JPEG")
    Image.fromarray(noise).convert("RGBA").save(tmp_path / "ant" / "2.png")
    source = data.pictures(tmp_path)
    found = list(data.batches(source, small, batch=4, threads=2))
    images = np.concatenate([one.images[one.mask] for one in found])
    np.testing.assert_array_equal(images, [small(source.picture(i)) for i in range(6)])
    np.testing.assert_array_equal(images[0, ..., 0], images[0, ..., 2])

    def refused(content: bytes, message: str, preprocess=small) -> None:
        (tmp_path / "bee" / "1.png").write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            list(data.batches(data.pictures(tmp_path), preprocess, batch=4, threads=2))
        assert str(error.value).startswith(str(tmp_path / "bee" / "1.png") + ": ")
        assert "\n" not in str(error.value)

    good = (tmp_path / "bee" / "1.png").read_bytes()
    refused(b"", "is not a picture")
    refused(good[:-200], "cannot be decoded|is not a picture")
    (tmp_path / "deep.png").touch()
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    deep = (tmp_path / "deep.png").read_bytes()
    (tmp_path / "deep.png").unlink()
    refused(deep, "has channels of mode 'I;16', not of 8 bits")
    Image.new("RGB", (300_000, 1)).save(tmp_path / "thin.png")
    thin = (tmp_path / "thin.png").read_bytes()
    (tmp_path / "thin.png").unlink()
    refused(thin, "is 300000x1, too long and thin")
    run = data.batches(source, AS_IS, batch=4)
    with pytest.raises(ValueError, match=r"0.png: is 30x22, not 16x16: resize it, or set another fit"):
        next(run)
    with pytest.raises(ValueError, match="closed"):  # it does not go on with the others out of place
        next(run)


def test_wrong_arguments():
    source = arrays(5)
    for arguments, message in (
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 2, "epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 2, "threads": 0}, "threads must be at least 1, got 0"),
        ({"batch": 2, "seed": -1}, "seed must not be negative, got -1"),
        ({"batch": 2, "augment": data.CropFlip()}, "augment draws random numbers: give seed=0"),
        ({"batch": 6, "drop_remainder": True}, "batch is 6, but there are 5 pictures: lower it"),
    ):
        with pytest.raises(ValueError, match=message):
            data.batches(source, AS_IS, **arguments)


def test_without_grain_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ValueError, match=r"need grain: pip install 'frugaljax\[data\]'"):
        data.batches(arrays(5), AS_IS, batch=2)


def test_a_run_that_is_left_ends_its_threads():
    before = set(threading.enumerate())
    run = data.batches(Slow(500), AS_IS, batch=4, threads=3)
    next(run)
    started = set(threading.enumerate()) - before
    assert len(started) == 3
    run.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_memory_is_bounded_by_what_is_decoded_ahead():
    source = Slow(400)
    asked = []
    picture = source.picture
    source.picture = lambda index: asked.append(index) or picture(index)
    run = data.batches(source, AS_IS, batch=8, threads=2)
    next(run)
    time.sleep(0.3)
    assert len(asked) <= 8 + 2 * 8 + 2
    run.close()


@pytest.mark.parametrize(("count", "batch", "epochs"), [(10, 4, 3), (8, 4, 2), (3, 5, 2)])
@pytest.mark.parametrize("drop", [False, True])
def test_the_plan_against_a_plain_loop(count, batch, epochs, drop):
    if drop and batch > count:
        pytest.skip("refused")
    plan = Plan(count, batch, epochs, 11, drop)
    want = []
    for epoch in range(epochs):
        order = np.random.default_rng([11, epoch]).permutation(count).tolist()
        if drop:
            order = order[: count // batch * batch]
        while len(order) % batch:
            order.append(-1)
        want += [(epoch, i) for i in order]
    assert [plan.place(p) for p in range(len(plan))] == want


def test_grain_is_not_imported_with_the_package():
    code = "import sys, nemojax.data, nemojax.cli_evaluate; assert 'grain' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[2])
