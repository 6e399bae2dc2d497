"""What a search starts from: drawn members, configurations of files, and their move into a space."""

import itertools
import json

import jax
import numpy as np
import pytest

from nemojax.configuration import Configuration, save_bits
from nemojax.first_generation import fitted, initial_bits, seeds_of
from nemojax.front import Front
from nemojax.space import BitSpace

NAMES = tuple(f"q{i}" for i in range(6))
PLAIN = BitSpace.create(NAMES)
SPACES = {
    "plain": PLAIN,
    "gaps": BitSpace.create(NAMES, (2, 4, 8), {"q0": 8}),
    "tied": BitSpace.create(NAMES, (2, 4, 8), ties=[("q1", "q4")]),
    "pairs": BitSpace.create(NAMES, pairs=((4, 4), (4, 8), (8, 8)), feeds=((0, 1), (2, 3))),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_first_members_are_legal_with_the_uniform_ones_in_front(name, count):
    space = SPACES[name]
    bits = initial_bits(jax.random.key(0), space, count)
    assert bits.shape == (count, 6)
    assert space.contains(bits).all()
    free = sorted({b for widths in space.allowed if len(widths) > 1 for b in widths})
    uniform = {tuple(space.uniform(b)) for b in free}
    assert len({tuple(row) for row in bits[: len(uniform)]} & uniform) == min(count, len(uniform))


def test_members_have_levels_of_their_own():
    """Means spread over the whole range, quantizers of one member within a few bits of its level."""
    space = BitSpace.create([f"q{i}" for i in range(60)])
    bits = initial_bits(jax.random.key(1), space, 400)[7:]
    mean = bits.mean(axis=1)
    assert mean.min() < 2.6
    assert mean.max() > 7.4
    np.testing.assert_allclose(mean.mean(), 5, atol=0.3)
    assert (bits.std(axis=1) < 1.4).all(), "drawn one by one it would be 2"
    assert np.ptp(bits.std(axis=1)) > 0.7


def test_a_pin_sets_no_level():
    """The pinned quantizer's 16 bits are no level of the others, which would all stand at 4 bits then."""
    space = BitSpace.create(NAMES, (2, 3, 4), {"q0": 16})
    free = initial_bits(jax.random.key(2), space, 200)[:, 1:]
    assert abs(free.mean() - 3) < 0.2


def test_configurations_move_to_the_nearest_legal_one():
    rng = np.random.default_rng(0)
    wanted = rng.integers(2, 17, (30, 6)).astype(np.int32)
    for name in ("plain", "gaps"):
        space = SPACES[name]
        moved = fitted(space, wanted)
        for row, found in zip(wanted, moved, strict=True):
            assert found.tolist() == [
                min(w, key=lambda b, g=g: (abs(b - g), b)) for g, w in zip(row, space.allowed, strict=True)
            ]
    for name in ("tied", "pairs"):
        assert SPACES[name].contains(fitted(SPACES[name], wanted)).all()


def test_legal_configurations_stay():
    rows = np.array(list(itertools.product((2, 4, 8), repeat=6)), np.int32)
    space = SPACES["tied"]
    legal = rows[space.contains(rows)]
    assert len(legal) == 3**5
    np.testing.assert_array_equal(fitted(space, legal), legal)


# Files

BITS = np.array([[2, 3, 4, 5, 6, 7], [8, 8, 8, 8, 8, 8]], np.int32)
COSTS = np.array([[1.0, 0.2], [0.5, 0.4]])


def front(names=NAMES) -> Front:
    return Front.of(BITS, COSTS, ("kl", "model_ratio"), names, {})


def test_a_front_is_read_whole_and_a_bits_file_is_one_row(tmp_path):
    front().to_json(tmp_path / "front.json")
    found = seeds_of(tmp_path / "front.json", PLAIN)
    assert {tuple(row) for row in found} == {tuple(row) for row in BITS}
    save_bits(tmp_path / "one.json", Configuration(BITS[0], NAMES, {"kl": 1.0}))
    np.testing.assert_array_equal(seeds_of(str(tmp_path / "one.json"), PLAIN), BITS[:1])


def test_a_bits_file_may_name_the_quantizers_in_another_order(tmp_path):
    save_bits(tmp_path / "one.json", Configuration(BITS[0, ::-1], NAMES[::-1], {"kl": 1.0}))
    np.testing.assert_array_equal(seeds_of(tmp_path / "one.json", PLAIN), BITS[:1])


def test_files_of_another_network_are_refused(tmp_path):
    others = tuple(f"x{i}" for i in range(6))
    front(others).to_json(tmp_path / "front.json")
    with pytest.raises(ValueError, match="is of other quantizers than this search"):
        seeds_of(tmp_path / "front.json", PLAIN)
    save_bits(tmp_path / "one.json", Configuration(BITS[0], others, {"kl": 1.0}))
    with pytest.raises(ValueError, match="lacks 'q0' and 5 more of this network"):
        seeds_of(tmp_path / "one.json", PLAIN)


@pytest.mark.parametrize("text", ["not json", "[1, 2]", "3", '"schema"', b"\xff\xfe\x00"])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    file = tmp_path / "seeds.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"seeds.json is no JSON of save_bits or Front.to_json"):
        seeds_of(file, PLAIN)


@pytest.mark.parametrize("fields", [{}, {"schema": "another/1"}, {"schema": None}, {"schema": 7}])
def test_other_schemas_are_refused_with_the_files_name(tmp_path, fields):
    file = tmp_path / "seeds.json"
    file.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"seeds\.json"):
        seeds_of(file, PLAIN)
