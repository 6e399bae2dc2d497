"""Latency and energy on a chip as functions of bit-widths, against hwmodel on the host, row by row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from nemojax.chip_bits import Widths, stored_points, tensor_bits
from nemojax.chip_costs import energy, latency
from nemojax.placing import RULES, Descended, Evolved, Fixed, placing
from nemojax.task import bits_task, costs_by_name, fidelity, search_space

from .chip_cases import CHIP, LEVELS, images, quantized


@pytest.fixture(scope="module")
def network():
    return quantized()


@pytest.fixture(scope="module")
def work(network):
    return network.workload


@pytest.fixture(scope="module")
def rows(work):
    drawn = np.random.default_rng(1).integers(2, 9, (3, len(work.points)))
    return np.concatenate([np.full((1, len(work.points)), 8), drawn]).astype(np.int32)


# Which point's bits each operation's output has, by name, as a person reads the network: None: none.
OUTPUTS = ["a.activation", "b.activation", "b.activation", "c.activation", None, None]


def host_bits(work, row, free=8):
    """By hand, for this network: operations a, b, max pooling, c, mean, d."""
    of = dict(zip(work.point_names, row.tolist(), strict=True))
    return hw.Bits(
        np.array([of.get(f"{op.name}.weight", free) for op in work.operations]),
        np.array([free if name is None else of[name] for name in OUTPUTS]),
        of["input"],
    )


def test_the_network_is_what_the_comments_say(work):
    assert [op.name for op in work.operations] == ["a", "b", "pool", "c", "pool_2", "d"]
    assert "b.linear" in work.point_names  # before the addition: the second point of one operation


def test_a_tensor_has_the_bits_of_the_point_that_stands_at_what_is_stored(work, rows):
    found = stored_points(work)
    names = [None if p < 0 else work.point_names[p] for p in found.outputs]
    assert names == OUTPUTS
    assert [work.point_names[p] for p in found.inputs] == ["input"]
    made, wanted = tensor_bits(work, CHIP, jnp.asarray(rows[1])), host_bits(work, rows[1])
    np.testing.assert_array_equal(made.outputs, wanted.outputs)
    np.testing.assert_array_equal(made.inputs, wanted.inputs)
    with_weights = [op.w_elems > 0 for op in work.operations]
    np.testing.assert_array_equal(np.asarray(made.weights)[with_weights], wanted.weights[with_weights])


@pytest.fixture(scope="module")
def ruled(work, rows):
    """For all rows in one compiled program: placements by each rule, and costs by two."""

    def all_rules(row):
        _, problem = latency(work, CHIP).problem(row)
        placements = {name: rule(problem) for name, rule in RULES.items()}
        costs = {name: latency(work, CHIP, name)(row) for name in ("density", "best")}
        return placements, costs, energy(work, CHIP, "density")(row)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(all_rules))(jnp.asarray(rows)))


@pytest.fixture(scope="module")
def problems(work, rows):
    """On the host."""
    return [hw.problem(work, CHIP, host_bits(work, row)) for row in rows]


@pytest.mark.parametrize("rule", RULES)
def test_rules_under_jit_are_those_of_the_host(ruled, problems, rule):
    for placed, problem in zip(ruled[0][rule], problems, strict=True):
        wanted = hw.BASELINES[rule](problem)
        some = np.stack([problem.weight_bytes, problem.output_bytes], axis=1) > 0  # others lie anywhere
        np.testing.assert_array_equal(placed[some], wanted[some])


def test_latency_is_that_of_the_host_bit_vector_by_bit_vector(work, ruled, problems):
    every = np.array([[hw.latency(p, rule(p)) for rule in hw.BASELINES.values()] for p in problems])
    np.testing.assert_allclose(ruled[1]["density"], every[:, list(hw.BASELINES).index("density")], rtol=1e-5)
    np.testing.assert_allclose(ruled[1]["best"], every.min(axis=1), rtol=1e-5)
    assert len(set(every[:, 0].tolist())) == len(problems)
    assert (latency(work, CHIP, "best").place.maps, latency(work, CHIP, "density").place.maps) == (3, 1)


def test_placements_are_compared_by_the_schedule_of_the_cost(work, monkeypatch):
    told, compared, real = [], [], hw.latency
    bits = jnp.full(len(work.points), 8, jnp.int32)

    class Told:
        maps = 1

        def __call__(self, workload, chip, bits, problem, schedule):
            told.append(schedule)
            return RULES["first_fit"](problem)

    for cost in (
        latency(work, CHIP, Told(), schedule="critical_path"),
        energy(work, CHIP, Told(), schedule="critical_path"),
        energy(work, CHIP, Told()),
    ):
        jax.eval_shape(cost.placement, bits)
    assert told == ["critical_path", "critical_path", "sequential"]
    monkeypatch.setattr(hw, "latency", lambda *args: compared.append(args[2:]) or real(*args))
    jax.eval_shape(latency(work, CHIP, "best", schedule="critical_path").placement, bits)
    assert compared == [("critical_path",)] * 2  # of the rules, and of the one that is chosen


def test_one_program_serves_all_rows_and_rebuilt_costs(work, rows):
    traces = []

    def counted(row, cost):
        traces.append(1)
        return cost(row)

    run = jax.jit(counted, static_argnums=1)
    for row in rows:
        run(row, latency(work, replace(CHIP), "density"))
    assert len(traces) == 1


def test_a_fixed_wish_is_rectified_at_each_bit_width(work, rows, problems):
    wish = np.full((len(work.operations), 2), 2)
    cost, given = latency(work, CHIP, wish), wish.astype(np.int32)
    for row, problem in zip(rows[:2], problems, strict=False):
        told = hw.evaluate(problem, wish)
        np.testing.assert_allclose(cost(row), told.latency_s, rtol=1e-6)
        np.testing.assert_allclose(cost.at(row, given), told.latency_s, rtol=1e-6)
        np.testing.assert_array_equal(cost.rectified(row, given), told.placement)
    assert latency(work, CHIP, wish) == latency(work, CHIP, given)


def test_energy_is_that_of_the_host(work, ruled, problems):
    for joules, problem in zip(ruled[2], problems, strict=True):
        placement = jnp.asarray(hw.density(problem))
        np.testing.assert_allclose(joules, hw.energy_j(problem, placement), rtol=1e-5)
    silent = replace(CHIP, compute=(hw.Rate(8, 8, 1e9),))
    with pytest.raises(ValueError, match="chip 'small' reports no energy of 8x8: give energy_j_per_byte"):
        energy(work, silent)


def test_what_the_chip_cannot_compute_or_hold(work):
    n = len(work.points)
    with pytest.raises(ValueError, match=r"needs \d+ bytes") as told:  # at 8 bits
        hw.problem(work, replace(CHIP, levels=(replace(LEVELS[0], capacity_bytes=64), *LEVELS[1:])))
    need = int(str(told.value).split(" needs ")[1].split()[0])
    fits, full = (
        replace(CHIP, levels=(replace(LEVELS[0], capacity_bytes=room), *LEVELS[1:]))
        for room in (need, need - 64)
    )
    costs = {
        "plain": latency(work, fits, "first_fit"),
        "strict": latency(work, CHIP, "first_fit", widths=Widths(unsupported="inf")),
        "full": latency(work, full, "first_fit"),
    }
    rows = np.stack([np.full(n, 5), np.full(n, 8), np.where(np.arange(n) == n - 1, 16, 8)]).astype(np.int32)
    run = jax.jit(lambda rows: {name: jax.lax.map(cost, rows) for name, cost in costs.items()})
    five, eight, wide = ({name: float(x[i]) for name, x in run(rows).items()} for i in range(3))
    assert five["plain"] < eight["plain"]  # fewer bytes, at the speed of 8 bits
    assert np.isinf(five["strict"])
    assert eight["strict"] == pytest.approx(eight["plain"])
    assert np.isinf([wide["plain"], wide["strict"]]).all()
    assert np.isinf(eight["full"])
    assert five["full"] == pytest.approx(five["plain"])


def test_bits_of_tensors_that_the_chip_does_not_have(work, rows):
    plain, row = tensor_bits(work, CHIP, rows[1]), rows[1]
    native = tensor_bits(work, CHIP, row, Widths(storage="native"))
    np.testing.assert_array_equal(native.outputs, np.where(np.asarray(plain.outputs) <= 4, 4, 8))
    np.testing.assert_array_equal(native.weights, np.where(np.asarray(plain.weights) <= 4, 4, 8))
    assert native.inputs == (4 if row[0] <= 4 else 8)
    wide = np.full(len(row), 16)
    np.testing.assert_array_equal(tensor_bits(work, CHIP, wide, Widths(storage="native")).outputs[:4], 16)
    unquantized = [tensor_bits(work, CHIP, row, Widths(unquantized=b)).outputs[4] for b in (None, 16)]
    assert unquantized == [8, 16]  # of the mean, which has no quantizer


@pytest.fixture(scope="module")
def policy():
    config = egrl.PolicyConfig(block="gcn", hidden=8, heads=2, decisions=2, choices=3)
    features = len(hw.feature_names("plus", CHIP))
    size = egrl.egrl(replace(egrl.tuned(3), policy=config), features).genome.size
    vector = np.random.default_rng(2).normal(size=size).astype(np.float32)
    return egrl.TrainedPolicy(vector, config, features)


def test_a_policy_places_by_one_forward_pass_at_these_bits(work, rows, policy):
    placements = jax.jit(jax.vmap(latency(work, CHIP, policy).placement))(jnp.asarray(rows[:2]))
    for row, placement in zip(rows, placements, strict=False):
        env = egrl.environment(work, CHIP, bits=host_bits(work, row))
        np.testing.assert_array_equal(placement, policy.propose(env))


SEARCHES = [Descended(steps=6, roundings=2), pytest.param(Evolved(20), marks=pytest.mark.long)]


@pytest.mark.parametrize("place", SEARCHES, ids=["descent", "margins"])
def test_an_inner_search_is_no_slower_than_the_best_rule_and_fits(work, rows, ruled, problems, place):
    placements = jax.jit(jax.vmap(latency(work, CHIP, place).placement))(jnp.asarray(rows))
    for placement, problem, rule in zip(placements, problems, ruled[1]["best"], strict=True):
        told = hw.evaluate(problem, placement)
        assert bool(told.valid)
        assert float(told.latency_s) <= rule * (1 + 1e-6)
    assert place.maps == {Evolved: 23, Descended: 5}[type(place)]


def test_four_objectives_in_one_compiled_evaluation(network, work, rows, ruled):
    costs = {name: costs_by_name(network)[name] for name in ("model_ratio", "bitops_max")}
    costs["latency"] = latency(network, CHIP, "density")
    task = fidelity(network, images(3, 4), costs=costs)
    assert task.objectives == ("kl", "model_ratio", "bitops_max", "latency")
    traces = []

    @jax.jit
    def run(task, bits):
        traces.append(1)
        return task.costs(bits)

    found = np.asarray(run(task, jnp.asarray(rows)))
    run(fidelity(network, images(4, 4), costs=costs), jnp.asarray(rows[::-1]))
    assert len(traces) == 1
    np.testing.assert_allclose(found[:, 3], ruled[1]["density"], rtol=1e-5)
    np.testing.assert_allclose(
        found[:, 1], [costs["model_ratio"](row) for row in jnp.asarray(rows)], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: latency(w, CHIP, "quickest"), "placement must be one of .*'best'.*, got 'quickest'"),
        (lambda w: latency(w, CHIP, object()), "placement must be a rule's name, levels"),
        (
            lambda w: latency(w, CHIP, np.zeros((3, 2), np.int32))(np.full(9, 8)),
            "is of 3 operations on levels",
        ),
        (lambda w: latency(w, CHIP, schedule="parallel"), "schedule must be 'sequential' or 'critical_path'"),
        (lambda w: latency(hw.zoo.by_name("resnet50"), CHIP), "has no quantizable points: trace the network"),
        (lambda w: Widths(storage="dense"), r"storage must be one of \('packed', 'native'\), got 'dense'"),
        (lambda w: Widths(unquantized=33), "unquantized must be 1-32 bits, got 33"),
        (lambda w: Evolved(0), "budget must be at least 1, got 0"),
        (lambda w: Descended(steps=5, roundings=2), "roundings 2 must divide steps 5"),
        (lambda w: Descended(penalty=-1.0), "penalty must be at least 0, got -1"),
        (lambda w: Fixed.of(np.zeros((3, 2))), r"whole numbers \(N, 2\), got float64 of \(3, 2\)"),
    ],
)
def test_refusals(work, make, message):
    with pytest.raises(ValueError, match=message):
        make(work)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": Widths(unsupported="inf")}, r"at 2 bits: chip 'small' does not compute that: .*\[4, 8\]"),
        ({"bits": (4, 16)}, r"at 16 bits: chip 'small' does not compute that: give a space of the chip's"),
        (
            {"levels": (replace(LEVELS[0], capacity_bytes=64),)},
            r"at 4 bits: .* its level 'dram' is too small",
        ),
    ],
)
def test_a_space_that_the_chip_does_not_compute_is_said(network, options, message):
    chip = replace(CHIP, levels=(*options.get("levels", LEVELS[:1]), *LEVELS[1:]))
    cost = latency(network, chip, "first_fit", widths=options.get("widths"))
    space = search_space(network, options.get("bits", (2, 4, 8) if "widths" in options else (4, 8)))
    with pytest.raises(ValueError, match=message):
        bits_task(network, lambda bits: bits[0] / 8, space=space, costs={"latency": cost})


def test_any_placing_is_taken_as_it_is():
    rule = placing("density")
    assert placing(rule) is rule
