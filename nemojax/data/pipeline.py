"""Batches of a network's inputs, decoded in parallel by Google's grain, in an order that nothing changes.

Position p of the run belongs to an epoch and a place in it; the epoch's order and every draw of an
augmentation follow from (seed, epoch, place), so neither threads nor a resumed run can change them.
"""

import functools
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodel import check_fields
from nemojax.data.augment import Augment
from nemojax.data.labelled import ArrayPictures, Labelled, LabelledArrays, default_threads
from nemojax.preprocess import Preprocess

BUFFERED_BATCHES = 2  # decoded ahead


class Batch(NamedTuple):
    """B images; where the pictures have run out, zeros under a mask of False."""

    images: np.ndarray  # (B, R, R, 3) float32, as the network takes them
    labels: np.ndarray  # (B,) int32
    mask: np.ndarray  # (B,) bool: whether there is a picture
    place: np.ndarray  # (B,) int64: of the picture in the source, -1 where there is none


@dataclass(frozen=True)
class Plan:
    """Which picture stands at which position of the run."""

    count: int  # pictures of the source
    batch: int
    epochs: int
    seed: int | None  # of the order; None: the source's own
    drop_remainder: bool

    def __post_init__(self):
        check_fields(self)
        for name in ("batch", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.drop_remainder and self.count < self.batch:
            raise ValueError(f"batch is {self.batch}, but there are {self.count} pictures: lower it")

    @property
    def per_epoch(self) -> int:
        """Positions of an epoch, a whole number of batches; no batch reaches into the next epoch."""
        whole = self.count // self.batch * self.batch
        return whole if self.drop_remainder or whole == self.count else whole + self.batch

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def place(self, position: int) -> tuple[int, int]:
        """(epoch, index in the source); index -1 where the last batch of an epoch is filled up."""
        epoch, place = divmod(position, self.per_epoch)
        if place >= self.count:
            return epoch, -1
        return epoch, place if self.seed is None else int(_order(self.count, self.seed, epoch)[place])


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class Batches:
    """An iterator of `Batch`, once through all epochs; `state` and `restore` say and set where it stands."""

    def __init__(self, load: Any, plan: Plan, threads: int):
        grain = _grain()
        self.plan = plan
        ahead = BUFFERED_BATCHES * plan.batch
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
        elements = grain.MapDataset.source(range(len(plan))).map(load)
        self._iterator = iter(elements.to_iter_dataset(options).batch(plan.batch, batch_fn=_stack))

    def __len__(self) -> int:
        """Batches of the whole run."""
        return len(self.plan) // self.plan.batch

    @property
    def pictures(self) -> int:
        """Pictures of the whole run, without what fills up the last batches."""
        whole = self.plan.per_epoch if self.plan.drop_remainder else self.plan.count
        return whole * self.plan.epochs

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return next(self._iterator)
        except ValueError as error:
            self.close()  # what comes after a picture that failed would be out of place
            raise ValueError(str(error)) from None  # without the lines about itself that grain adds

    def state(self) -> dict[str, Any]:
        """JSON-able: the plan, and how far it is carried out."""
        return {**vars(self.plan), "position": self._iterator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken, on the same pictures; the number of threads may be another.

        Raises:
            ValueError: the state is of another number of pictures or epochs, batch or seed.
        """
        state = dict(json.loads(json.dumps(state)))
        position = state.pop("position", None)
        for name, own in vars(self.plan).items():
            if state.pop(name, None) != own:
                raise ValueError(f"state is of batches with another {name} than {own}: make the same ones")
        before = self._iterator.get_state()
        try:
            self._iterator.set_state(position)
        except (TypeError, KeyError, IndexError) as error:
            self._iterator.set_state(before)
            raise ValueError(f"state has the position {position!r}, which these lack ({error})") from None

    def close(self) -> None:
        """Ends the threads; the iterator is of no further use."""
        self._iterator.close()


def batches(
    source: Labelled | LabelledArrays,
    preprocess: Preprocess,
    *,
    batch: int,
    threads: int | None = None,
    seed: int | None = None,
    epochs: int = 1,
    drop_remainder: bool = False,
    augment: Augment | None = None,
) -> Batches:
    """Every picture once an epoch, as the network takes it.

    Args:
        source: of `imagenet`, `pictures` or `cifar10`.
        batch: images of a batch. The last one of an epoch is filled up under a mask, or left out with
            `drop_remainder`; no batch reaches into the next epoch.
        threads: that decode, by default one per processor up to 8; they change the speed alone.
        seed: shuffles, each epoch anew; None keeps the source's order.
        augment: replaces the fit to the resolution; draws from (seed, epoch, picture), so it needs a seed.

    Raises:
        ValueError: an argument out of its range; while iterating, a picture that cannot be read (named).
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if augment is not None and seed is None:
        raise ValueError("augment draws random numbers: give seed=0, say")
    found: Labelled = ArrayPictures(source) if isinstance(source, LabelledArrays) else source
    plan = Plan(len(found), batch, epochs, seed, drop_remainder)
    side = preprocess.resolution

    def load(position: int) -> tuple[Any, ...]:
        epoch, index = plan.place(position)
        if index < 0:
            return np.zeros((side, side, 3), np.float32), 0, False, -1
        picture = found.picture(index)
        try:
            if augment is None:
                pixels = preprocess.pixels(picture)
            else:
                pixels = augment(np.random.default_rng([plan.seed or 0, epoch, index]), picture, preprocess)
        except ValueError as error:
            raise ValueError(f"{found.where(index)}: {error}") from None
        return preprocess.normalize(pixels), found.label(index), True, index

    return Batches(load, plan, threads or default_threads())


def _stack(elements: list[tuple[Any, ...]]) -> Batch:
    images, labels, mask, place = zip(*elements, strict=True)
    return Batch(
        np.stack(images), np.array(labels, np.int32), np.array(mask, bool), np.array(place, np.int64)
    )


def _grain() -> Any:
    try:
        return importlib.import_module("grain")
    except ImportError:
        raise ValueError("pipelines of pictures need grain: pip install 'frugaljax[data]'") from None
