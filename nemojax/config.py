"""Settings of NEMO that fix shapes and branches: frozen, hashed by value, checked at construction.

Of the paper's values (Miret et al. 2022) only those marked P are known to us; A is the same group's
related public code (ERL), O is ours. docs/nemo.md lists them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hwmodel import check_fields

RULES = ("ucb", "equal")
UTILITIES = ("r2", "r2_equal", "hypervolume", "front")
APPORTIONMENTS = ("deterministic", "roulette")
REFILLS = ("fresh", "repeats")
OPERATORS = ("tensor", "patent", "erl")
DECISIONS = ("argmax", "sample")
EDGES = ("chain", "dataflow", "shuffled")
INITS = ("levels", "raw")
TIES = ("first", "sum")


def _whole(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}, got {value!r}")


@dataclass(frozen=True)
class Resize:
    """How the species' sizes follow their success (section 5 of docs/nemo.md)."""

    rule: str = "ucb"  # P: UCB; "equal" keeps the sizes of the start
    utility: str = "r2"  # P; r2_equal: of subsets of equal size; front: members on it (the patent's example)
    exploration: float = 0.1  # O: c of the UCB score
    smoothing: float = 0.5  # O: share of the old utility in the new one; 0: none, as in the paper
    least: int | None = None  # O: members that each species keeps; none: population / 15, at least 2
    rate_limited: bool = True  # O: no species more than doubles, or shrinks below half, in a generation
    apportionment: str = "deterministic"  # O; A: roulette
    refill: str = "fresh"  # O: what fills places that a species has no members for
    weight_divisions: int = 12  # O: of R2's weight vectors; 91 of them for three objectives
    subset: int = 16  # O: members in a subset of r2_equal
    draws: int = 8  # O: subsets of r2_equal

    def __post_init__(self):
        check_fields(self, "resize.")
        _one_of("resize.rule", self.rule, RULES)
        _one_of("resize.utility", self.utility, UTILITIES)
        _one_of("resize.apportionment", self.apportionment, APPORTIONMENTS)
        _one_of("resize.refill", self.refill, REFILLS)
        if not 0 <= self.exploration < float("inf"):
            raise ValueError(f"resize.exploration must be at least 0, got {self.exploration}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"resize.smoothing must be in [0, 1), got {self.smoothing}")
        if self.least is not None:
            _whole("resize.least", self.least, 1)
        for name in ("weight_divisions", "subset", "draws"):
            _whole(f"resize.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class Direct:
    """The species whose genes are bit-widths."""

    eta_crossover: float = 2.0  # O: children far from their parents, since genes are rounded
    eta_mutation: float = 10.0  # O: wide steps, for the same reason
    pair_rate: float = 1.0  # share of pairs that are crossed (Deb & Jain 2014)
    gene_rate: float = 0.5  # of a crossed pair; Deb's standard form
    mutation_rate: float | None = None  # per gene; none: 1/n, Deb's standard
    guest_rate: float = 0.5  # O: share of pairs, in 32nds, whose parents are archived neighbours; P: none
    guest_pair_rate: float = 0.5  # O: of those, share that are crossed; the others' children step from one
    tournament: int = 2  # Deb et al. 2002
    floor_top: float = 0.0  # P: 0, so that the highest width needs a gene of exactly that value

    def __post_init__(self):
        check_fields(self, "direct.")
        for name in ("eta_crossover", "eta_mutation", "floor_top"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"direct.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("pair_rate", "gene_rate", "mutation_rate", "guest_rate", "guest_pair_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"direct.{name} must be in [0, 1], got {value}")
        _whole("direct.tournament", self.tournament, 1)


@dataclass(frozen=True)
class Graph:
    """The species whose genes are the parameters of a graph policy."""

    operators: str = "tensor"  # P; see egrljax.ssne
    decision: str = "argmax"  # O: of the logits; the paper says that they represent probabilities
    edges: str = "chain"  # P: quantizers in execution order; dataflow: what reads what
    ties: str = "first"  # O: whose logits a tied group follows
    position: bool = False  # O: a quantizer's place along the chain is one of its features
    hidden: int = 32  # O
    heads: int = 4  # O: of the attention
    depth: int = 3  # O: poolings of the U-Net
    ratio: float = 0.5  # O: share of nodes that a pooling keeps
    init: str = "levels"  # O: each policy starts around a bit-width of its own; raw: as drawn
    crossover_rate: float | None = None  # probability that a tensor is crossed; none: egrljax's
    mutation_rate: float | None = None  # probability that a tensor is mutated; none: egrljax's
    tournament: int = 3  # A
    chunk: int = 16  # policies alive at once; never changes a result

    def __post_init__(self):
        check_fields(self, "graph.")
        _one_of("graph.operators", self.operators, OPERATORS)
        _one_of("graph.decision", self.decision, DECISIONS)
        _one_of("graph.edges", self.edges, EDGES)
        _one_of("graph.ties", self.ties, TIES)
        _one_of("graph.init", self.init, INITS)
        for name in ("hidden", "heads", "depth", "tournament", "chunk"):
            _whole(f"graph.{name}", getattr(self, name), 1)
        if self.hidden % self.heads:
            raise ValueError(f"graph.hidden must be a multiple of heads {self.heads}, got {self.hidden}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"graph.ratio must be in (0, 1], got {self.ratio}")
        for name in ("crossover_rate", "mutation_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"graph.{name} must be in [0, 1], got {value}")


@dataclass(frozen=True)
class NemoConfig:
    """A whole search. Names of species and survivals are looked up when the search is built."""

    population: int = 120  # O: N, members and evaluations per generation, of all species together
    species: tuple[str, ...] = ("continuous", "floor", "gcn", "unet")  # P; names in SPECIES
    survival: str = "nsga3"  # P; name in SURVIVALS
    divisions: int | None = None  # O: of NSGA-III's simplex; none: the most that give N directions or fewer
    archive_capacity: int = 1024  # O
    demote_repeats: bool = True  # O: of equal bit-vectors one keeps its rank, the rest come behind all others
    resize: Resize = field(default_factory=Resize)
    direct: Direct = field(default_factory=Direct)
    graph: Graph = field(default_factory=Graph)

    def __post_init__(self):
        check_fields(self)
        if not self.species:
            raise ValueError("species is empty: give at least one name")
        if len(set(self.species)) != len(self.species):
            raise ValueError(f"species must be unique, got {list(self.species)}")
        for name in ("population", "archive_capacity"):
            _whole(name, getattr(self, name), 1)
        least = max(2, self.resize.least or 0) * len(self.species)
        if self.population < least:
            raise ValueError(
                f"population must be at least {least}, {least // len(self.species)} for each of "
                f"{len(self.species)} species, got {self.population}"
            )
        if self.divisions is not None:
            _whole("divisions", self.divisions, 1)

    @property
    def least(self) -> int:
        """Members that each species keeps."""
        if self.resize.least is not None:
            return self.resize.least
        return max(2, min(self.population // 15, self.population // len(self.species)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Members of each species at the start; they differ by at most one."""
        share, rest = divmod(self.population, len(self.species))
        return tuple(share + (s < rest) for s in range(len(self.species)))

    @property
    def slots(self) -> int:
        """C: places held for each species, living or not."""
        if self.resize.rule == "equal":
            return max(self.sizes)
        return self.population - (len(self.species) - 1) * self.least


PAPER = NemoConfig(
    demote_repeats=False,
    resize=Resize(smoothing=0.0, rate_limited=False, apportionment="roulette"),
    direct=Direct(guest_rate=0.0),
    graph=Graph(init="raw"),
)
"""As near to the paper as we can read it: no smoothing, no limit to the change of sizes, no guests."""

GUIDED = NemoConfig(species=("continuous", "floor", "gcn", "unet", "priced"))
"""With a fifth species, ours, that prices bits by a sensitivity table; `search` uses it where it has one."""

PRESETS: Mapping[str, NemoConfig] = {"default": NemoConfig(), "guided": GUIDED, "paper": PAPER}


def preset(name: str, **changes: Any) -> NemoConfig:
    """A named configuration with some fields changed.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {name!r}")
    return replace(PRESETS[name], **changes)


def default_config(warm_start: object) -> NemoConfig:
    """What `search` runs where it is given none: with a table of sensitivities the species that reads it."""
    return PRESETS["default"] if warm_start is None else PRESETS["guided"]
