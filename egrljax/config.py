"""Settings of EGRL: shapes and branches, hashed by value. `PRESETS` has them by name."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from evosax.algorithms import algorithms

from hwmodel import check_fields

from .acting import Acting
from .boltzmann import T_MAX, T_MIN, BoltzmannRates, Temperatures
from .critics import CriticKind
from .policies import PolicyConfig
from .reward import RewardConfig
from .starts import Start

Rank = Literal["measured", "predicted"]


@dataclass(frozen=True)
class LearnerConfig:
    """Discrete soft actor-critic (Haarnoja et al. 2018; Christodoulou 2019) for episodes of one step.

    Raises:
        ValueError: a number below 0, or below 1 where none makes no sense.
    """

    critic: CriticKind = "roofline"
    critic_steps: int = 20  # a generation; 0: the critic never learns
    actor_steps: int = 4  # a generation; 0: the actor never learns
    batch: int = 64  # maps of a critic step
    samples: int = 4  # maps that an actor step draws
    critic_rate: float = 1e-2  # of Adam
    actor_rate: float = 3e-3
    entropy: float = 0.05  # α
    overflow: float = 1.0  # weight of what does not fit in the actor's loss, a share of capacity a step
    noise: float = 0.1  # standard deviation on the one-hot actions that a graph critic learns from
    noise_clip: float = 0.3
    decay: float = 1e-3  # pull of a roofline critic's single tensors towards the bytes that they have

    @property
    def judges(self) -> bool:
        """Whether the critic comes to know anything."""
        return self.critic == "model" or self.critic_steps > 0

    def __post_init__(self) -> None:
        check_fields(self, "learner.")
        if self.critic not in get_args(CriticKind):
            raise ValueError(f"learner.critic must be one of {get_args(CriticKind)}, got {self.critic!r}")
        for name in ("critic_steps", "actor_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"learner.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("batch", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("critic_rate", "actor_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"learner.{name} must be above 0, got {getattr(self, name)}")
        for name in ("entropy", "overflow", "noise", "noise_clip", "decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"learner.{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class EGRLConfig:
    """The population, how it varies, and what it learns beside.

    Raises:
        ValueError: a number out of its range, more elites than members, no member that varies.
    """

    budget: int = 4000  # maps measured, rollouts and elites among them
    policies: int = 16  # graph policies
    chromosomes: int = 64  # Boltzmann chromosomes
    policy_elites: int = 12  # of the policies, how many stay as they are
    chromosome_elites: int = 48
    remeasure: bool = False  # whether those that stay are measured again
    distinct: bool = True  # members with the map of a better one are the first to go
    rank: Rank = "measured"  # "predicted": by the critic, which a single noisy measurement cannot mislead
    screen: int = 8  # candidates for each place; the critic chooses among them. 1: none are left out
    rollouts: int = 1  # maps of the actor in a generation; 0: none, and then it does not migrate
    migrate_every: int = 1  # generations between two moves of the actor into the population; 0: never
    seed_every: int = 5  # generations between seedings of chromosomes; 0: never
    seeds: int = 2  # chromosomes that are seeded then, half by the actor, half by the best policy
    acting: Acting = "margins"
    start: Start = "density"
    start_std: float = 0.3  # of the first chromosomes' logits around the start
    temperature: float = 0.05  # of the first chromosomes, and of seeded ones
    temperatures: Temperatures = "node"  # what has a temperature of its own
    tournament: int = 2
    crossover: float = 0.6  # probability that a child has two parents
    cross_type: float = 0.1  # probability that a chromosome's other parent is a policy
    cuts: int = 2  # of the crossover of chromosomes
    strategy: str = "SNES"  # of evosax, that drives the guests
    guests: int = 0  # members of a sub-population of its own; see guests.py
    mutation: float = 1.0  # probability that a child mutates
    rates: tuple[tuple[str, float], ...] = (("share", 0.0), ("count", 2.0), ("prior_std", 1.0))
    policy: PolicyConfig = field(
        default_factory=lambda: PolicyConfig(
            block="unet", hidden=32, depth=3, layer_norm=True, decisions=2, choices=3
        )
    )
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        least = {"budget": 1, "screen": 1, "tournament": 1, "policies": 0, "chromosomes": 0}
        least |= {"guests": 0, "rollouts": 0, "migrate_every": 0, "seed_every": 0, "seeds": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for kind, elites in (("policies", "policy_elites"), ("chromosomes", "chromosome_elites")):
            members, stay = getattr(self, kind), getattr(self, elites)
            if not 0 <= stay < max(members, 1):
                raise ValueError(f"{elites} must leave one of the {members} {kind} to vary, got {stay}")
        if self.members + self.rollouts + self.guests < 1:
            raise ValueError("policies, chromosomes, rollouts, guests must not all be 0: nothing is measured")
        if self.strategy not in algorithms:
            raise ValueError(f"strategy must be one of {sorted(algorithms)}, got {self.strategy!r}")
        for name in ("crossover", "cross_type", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not self.start_std >= 0:
            raise ValueError(f"start_std must be at least 0, got {self.start_std}")
        if not T_MIN <= self.temperature <= T_MAX:
            raise ValueError(f"temperature must lie in [{T_MIN}, {T_MAX}], got {self.temperature}")
        if self.cuts not in (1, 2):
            raise ValueError(f"cuts must be 1 or 2, got {self.cuts}")
        for name, choices in (
            ("rank", Rank),
            ("acting", Acting),
            ("start", Start),
            ("temperatures", Temperatures),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        if self.rank == "predicted" and not self.members:
            raise ValueError("rank 'predicted' ranks policies and chromosomes, and there are none")
        if (self.rank == "predicted" or self.screen > 1) and not self.learner.judges:
            raise ValueError(
                f"rank {self.rank!r} and screen {self.screen} ask a critic that never learns: "
                "give learner.critic_steps, or rank 'measured' and screen 1"
            )
        if self.policy.decisions != 2:
            raise ValueError(
                f"policy.decisions must be 2, the memories of weights and of the output, got "
                f"{self.policy.decisions}"
            )
        unknown = {name for name, _ in self.rates} - set(BoltzmannRates.__dataclass_fields__)
        if unknown:
            raise ValueError(f"rates: there is no rate {sorted(unknown)[0]!r} of chromosomes")

    @property
    def members(self) -> int:
        """Policies first, then chromosomes."""
        return self.policies + self.chromosomes

    @property
    def varied(self) -> tuple[int, int]:
        """New policies and new chromosomes of a generation."""
        return self.policies - self.policy_elites, self.chromosomes - self.chromosome_elites

    @property
    def batch(self) -> int:
        """Maps measured in a generation."""
        own = self.members if self.remeasure else sum(self.varied)
        return own + self.rollouts + self.guests

    @property
    def generations(self) -> int:
        """Until the budget is spent; the last one counts in part."""
        return -(-self.budget // self.batch)


def paper_like(levels: int = 3) -> EGRLConfig:
    """The method as we remember it (docs/egrl.md says what was read and what is remembered).

    Departs from it: the best of each kind stay, how many of each is fixed [the best of all]; children are all
    made of parents drawn by tournament [members that were not selected are crossed in place].
    """
    return EGRLConfig(
        policies=16,
        chromosomes=4,
        policy_elites=3,
        chromosome_elites=1,
        remeasure=True,
        distinct=False,
        screen=1,
        seed_every=10,
        seeds=1,
        acting="levels",
        start="backing",
        start_std=1.0,
        temperature=1.0,
        tournament=3,
        crossover=0.15,
        cross_type=0.5,
        cuts=1,
        mutation=0.9,
        rates=(),
        policy=PolicyConfig(
            block="unet", hidden=128, heads=4, depth=4, layer_norm=True, decisions=2, choices=levels
        ),
        learner=LearnerConfig(
            critic="graph",
            critic_steps=21,
            actor_steps=21,
            batch=24,
            samples=1,
            critic_rate=1e-3,
            actor_rate=1e-3,
            overflow=0.0,
        ),
        reward=RewardConfig(fitness="strict"),
    )


def tuned(levels: int = 3) -> EGRLConfig:
    """The default: acting by margins, a critic that learns the roofline, children that it screens [ours]."""
    return EGRLConfig(
        policy=PolicyConfig(block="unet", hidden=32, depth=3, layer_norm=True, decisions=2, choices=levels)
    )


PRESETS = {"tuned": tuned, "paper_like": paper_like}
