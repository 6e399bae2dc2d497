"""Settings: every wrong one is refused where it is made, by its name and value."""

from dataclasses import FrozenInstanceError, replace

import pytest

from nemojax.config import PAPER, PRESETS, Direct, Graph, NemoConfig, Resize, preset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": ()}, "species is empty: give at least one name"),
        ({"species": ("floor", "floor")}, r"species must be unique, got \['floor', 'floor'\]"),
        ({"population": 7}, "population must be at least 8, 2 for each of 4 species, got 7"),
        ({"population": True}, "population must be a whole number, got True"),
        ({"archive_capacity": 0}, "archive_capacity must be a whole number of at least 1, got 0"),
        ({"divisions": 0}, "divisions must be a whole number of at least 1, got 0"),
        (
            {"population": 24, "resize": Resize(least=7)},
            "population must be at least 28, 7 for each of 4 species, got 24",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        NemoConfig(**change)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Resize, {"rule": "none"}, r"resize.rule must be one of \['ucb', 'equal'\], got 'none'"),
        (Resize, {"utility": "r3"}, "resize.utility must be one of .* got 'r3'"),
        (Resize, {"apportionment": "dice"}, "resize.apportionment must be one of .* got 'dice'"),
        (Resize, {"refill": "none"}, "resize.refill must be one of .* got 'none'"),
        (Resize, {"exploration": -0.1}, "resize.exploration must be at least 0, got -0.1"),
        (Resize, {"exploration": float("nan")}, "resize.exploration must be a number, got nan"),
        (Resize, {"smoothing": 1.0}, r"resize.smoothing must be in \[0, 1\), got 1.0"),
        (Resize, {"least": 0}, "resize.least must be a whole number of at least 1, got 0"),
        (Resize, {"weight_divisions": 0}, "resize.weight_divisions must be a whole number"),
        (Resize, {"subset": 0}, "resize.subset must be a whole number"),
        (Resize, {"draws": True}, "resize.draws must be a whole number, got True"),
        (Direct, {"eta_crossover": -1.0}, "direct.eta_crossover must be at least 0, got -1.0"),
        (Direct, {"eta_mutation": float("inf")}, "direct.eta_mutation must be at least 0, got inf"),
        (Direct, {"floor_top": -0.5}, "direct.floor_top must be at least 0, got -0.5"),
        (Direct, {"pair_rate": 1.5}, r"direct.pair_rate must be in \[0, 1\], got 1.5"),
        (Direct, {"gene_rate": -0.5}, r"direct.gene_rate must be in \[0, 1\], got -0.5"),
        (Direct, {"mutation_rate": 2.0}, r"direct.mutation_rate must be in \[0, 1\], got 2.0"),
        (Direct, {"tournament": 0}, "direct.tournament must be a whole number of at least 1, got 0"),
        (Graph, {"operators": "ssne"}, "graph.operators must be one of .* got 'ssne'"),
        (Graph, {"decision": "max"}, "graph.decision must be one of .* got 'max'"),
        (Graph, {"edges": "none"}, "graph.edges must be one of .* got 'none'"),
        (Graph, {"ties": "last"}, r"graph.ties must be one of \['first', 'sum'\], got 'last'"),
        (Graph, {"init": "zero"}, "graph.init must be one of .* got 'zero'"),
        (Graph, {"hidden": 0}, "graph.hidden must be a whole number of at least 1, got 0"),
        (Graph, {"hidden": 9}, "graph.hidden must be a multiple of heads 4, got 9"),
        (Graph, {"ratio": 0.0}, r"graph.ratio must be in \(0, 1\], got 0.0"),
        (Graph, {"chunk": 0}, "graph.chunk must be a whole number"),
        (Graph, {"mutation_rate": -1.0}, r"graph.mutation_rate must be in \[0, 1\], got -1.0"),
        (Graph, {"crossover_rate": 1.1}, r"graph.crossover_rate must be in \[0, 1\], got 1.1"),
    ],
)
def test_parts_name_field_and_value(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


@pytest.mark.parametrize(
    ("population", "species", "sizes", "least"),
    [(120, 4, (30, 30, 30, 30), 8), (120, 2, (60, 60), 8), (21, 2, (11, 10), 2), (8, 4, (2, 2, 2, 2), 2)],
)
def test_sizes_of_the_start(population, species, sizes, least):
    config = NemoConfig(population=population, species=("continuous", "floor", "gcn", "unet")[:species])
    assert config.sizes == sizes
    assert config.least == least
    assert config.slots == population - (species - 1) * least  # all that the others can leave to one
    fixed = replace(config, resize=Resize(rule="equal"))
    assert fixed.slots == max(sizes)
    assert replace(config, resize=Resize(least=1)).least == 1


def test_settings_are_values():
    assert NemoConfig() == NemoConfig(resize=Resize(), direct=Direct(), graph=Graph())
    assert hash(NemoConfig()) == hash(NemoConfig())
    assert NemoConfig() != NemoConfig(resize=Resize(exploration=0.2))
    with pytest.raises(FrozenInstanceError):
        NemoConfig().population = 3


def test_presets():
    assert preset("default") == NemoConfig()
    assert PRESETS["paper"] == PAPER != NemoConfig()
    changed = preset("paper", population=40, graph=Graph(hidden=8))
    assert changed.population == 40
    assert changed.resize == PAPER.resize
    assert changed.resize.apportionment == "roulette"
    assert not changed.resize.rate_limited
    with pytest.raises(
        ValueError, match=r"preset must be one of \['default', 'guided', 'paper'\], got 'best'"
    ):
        preset("best")
