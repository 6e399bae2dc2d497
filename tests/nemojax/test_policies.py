"""Policies that one search evolved: saved, loaded, refused, and run on another network's graph."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.config import Graph, NemoConfig
from nemojax.loop import run
from nemojax.nemo import nemo
from nemojax.policies import load_policies, policies, save_policies
from nemojax.quantizer_graph import chain_graph
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting

SIX = BitSpace.create([f"q{i}" for i in range(6)])
NINE = BitSpace.create([f"p{i}" for i in range(9)], pins={"p4": 8})
CONFIG = NemoConfig(
    population=10, species=("gcn", "floor"), archive_capacity=32, graph=Graph(hidden=8, heads=2, depth=1)
)


def evaluate(bits):
    """Layers in front need more bits; both costs are in 0-1."""
    b = jnp.asarray(bits).astype(jnp.float32)
    need = jnp.linspace(1, 0.1, bits.shape[1])
    return jnp.stack([jnp.mean(need[None] * 4.0 ** (2 - b), axis=1), jnp.mean(b, axis=1) / 8], axis=1)


@pytest.fixture(scope="module")
def evolved():
    """The policies of a short search on six nodes, best first, and its state."""
    algo = nemo(CONFIG, SIX, 2, graph=chain_graph(6))
    state, _ = run(algo, evaluate, algo.init(jax.random.key(0)), generations=8, every=8)
    return policies(state, CONFIG), state


@pytest.fixture
def saved(evolved, tmp_path):
    path = tmp_path / "policies"
    save_policies(path, evolved[0], CONFIG, SIX)
    return path


def test_policies_are_the_living_of_graph_species(evolved):
    found, state = evolved
    assert list(found) == ["gcn"]
    live = int(state.alloc[0])
    np.testing.assert_array_equal(found["gcn"], state.species[0].population[:live])
    assert (np.diff(state.species[0].fitness[:live]) > 0).all(), "best first"


def test_what_is_saved_is_loaded(evolved, saved):
    found = load_policies(saved, CONFIG, SIX)
    assert list(found) == ["gcn"]
    np.testing.assert_array_equal(found["gcn"], evolved[0]["gcn"])


def test_policies_of_six_nodes_run_on_nine(evolved, saved):
    """The first candidates of the other search are theirs, decided on its own graph."""
    algo = nemo(CONFIG, NINE, 2, graph=chain_graph(9))
    found = load_policies(saved, CONFIG, NINE)
    state = algo.init(jax.random.key(1), genotypes=found)
    bits, _, _ = jax.jit(algo.ask)(state)
    assert NINE.contains(np.asarray(bits)).all()
    kind = SPECIES["gcn"](Setting(NINE, CONFIG.slots, CONFIG, chain_graph(9)))
    count = min(len(found["gcn"]), CONFIG.sizes[0])
    alone = kind.decode(jax.random.key(0), jnp.asarray(found["gcn"][:count]), count)
    np.testing.assert_array_equal(bits[:count], alone)


@pytest.mark.parametrize(
    ("change", "space", "name"),
    [
        ({"graph": replace(CONFIG.graph, hidden=16)}, SIX, "policy was"),
        ({"graph": replace(CONFIG.graph, heads=4)}, SIX, "policy was"),
        ({"graph": replace(CONFIG.graph, depth=2)}, SIX, "policy was"),
        ({}, BitSpace.create(SIX.names, bits=(2, 4, 8)), "widths was"),
        ({"species": ("unet", "floor")}, SIX, "species was"),
    ],
)
def test_policies_of_another_shape_are_refused(saved, change, space, name):
    with pytest.raises(ValueError, match=f"written with other settings: {name}"):
        load_policies(saved, replace(CONFIG, **change), space)


def test_settings_that_do_not_matter_may_differ(saved, evolved):
    other = replace(CONFIG, population=40, graph=replace(CONFIG.graph, mutation_rate=0.1, decision="sample"))
    np.testing.assert_array_equal(load_policies(saved, other, NINE)["gcn"], evolved[0]["gcn"])


def test_bad_files_are_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_policies(tmp_path / "none", CONFIG, SIX)
    whole = bytearray(saved.read_bytes())
    saved.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="cut short"):
        load_policies(saved, CONFIG, SIX)
    whole[-5] ^= 1
    saved.write_bytes(whole)
    with pytest.raises(ValueError, match="does not match its checksum: damaged"):
        load_policies(saved, CONFIG, SIX)


def test_a_count_that_does_not_fit_is_refused(tmp_path, evolved):
    path = tmp_path / "policies"
    save_policies(path, {"gcn": evolved[0]["gcn"][:0]}, CONFIG, SIX)
    with pytest.raises(ValueError, match="0 numbers are no 0 policies of 'gcn'"):
        load_policies(path, CONFIG, SIX)
