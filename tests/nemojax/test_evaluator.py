"""The evaluator: each configuration once, the same numbers in any grouping, one compilation, a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.calibration import QuantizerConfig
from nemojax.evaluator import Evaluator, scores
from nemojax.networks import Network
from nemojax.objectives import Disagreement, KLDivergence
from nemojax.quantized import quantize
from nemojax.space import BitSpace
from nemojax.task import Task, fidelity, search_space


def apply(p, x):
    """Two matrix products: compiled in a moment."""
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (48, 16), "bias": (16,), "b": (16, 5)}
    return {name: np.float32(rng.normal(size=shape) / np.sqrt(shape[0])) for name, shape in shapes.items()}


def images(seed, count=3):
    return np.float32(np.random.default_rng(seed).normal(size=(count, 4, 4, 3)))


@pytest.fixture(scope="module")
def network():
    return quantize(Network("tiny", apply, draw(0)), images(0), QuantizerConfig(activation_range="minmax"))


@pytest.fixture(scope="module")
def task(network):
    return fidelity(network, images(1))


@pytest.fixture(scope="module")
def bits(task):
    return np.asarray(task.space.sample(jax.random.key(1), 7))


def test_costs_are_the_tasks(task, bits):
    found = Evaluator(task)(bits)
    assert (found.shape, found.dtype) == ((7, 3), np.float32)
    np.testing.assert_allclose(found, jax.jit(Task.costs)(task, bits), rtol=1e-4, atol=1e-6)


def test_a_configuration_is_evaluated_once(task, bits):
    counts = []
    evaluate = Evaluator(task, on_evaluated=counts.append)
    repeated = bits[[0, 1, 0, 2, 2, 0]]
    found = evaluate(repeated)
    assert (evaluate.evaluations, evaluate.asked, counts) == (3, 6, [1, 2, 3])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[3], found[4])
    again = evaluate(bits[[2, 3]])
    assert (evaluate.evaluations, evaluate.asked, counts) == (4, 8, [1, 2, 3, 4])
    np.testing.assert_array_equal(again[0], found[3])
    evaluate(jnp.asarray(repeated))  # device arrays too, and nothing is left to do
    assert (evaluate.evaluations, evaluate.asked) == (4, 14)


@pytest.mark.parametrize("block", [2, 3, 10])
def test_a_block_changes_nothing_and_counts_right(task, bits, block):
    counts = []
    evaluate = Evaluator(task, block=block, on_evaluated=counts.append)
    np.testing.assert_allclose(evaluate(bits), Evaluator(task)(bits), rtol=1e-4, atol=1e-6)
    assert evaluate.evaluations == 7
    assert counts == sorted({*range(block, 8, block), 7})


def test_one_compilation_for_everything(network, bits):
    traces = 0

    def counted(b):
        nonlocal traces
        traces += 1
        return jnp.mean(b.astype(jnp.float32))

    other = quantize(Network("other", apply, draw(1)), images(0), network.config)
    task = fidelity(other, images(1), costs={"mean bits": counted})
    before, checked = len(other.traced.compilations), traces  # building the task calls the cost to check it
    for seed in range(3):
        Evaluator(task)(np.asarray(task.space.sample(jax.random.key(seed), 5)))
    Evaluator(task.on(images(2)))(bits)  # other images of the same number, another evaluator
    assert before == 1  # the target's, which is the candidates' own
    assert len(other.traced.compilations) == before
    assert traces == checked + 1


def test_a_failed_configuration_is_infinite_and_remembered(network, bits):
    task = fidelity(
        network, images(1), costs={"latency": lambda b: jnp.where(b[0] == bits[0, 0], jnp.nan, 1.0)}
    )
    evaluate = Evaluator(task)
    for _ in range(2):
        found = evaluate(bits)
        failed = bits[:, 0] == bits[0, 0]
        assert (found[failed] == np.inf).all()
        assert np.isfinite(found[~failed]).all()
    assert evaluate.evaluations == 7


def test_table_and_restore(task, bits):
    evaluate = Evaluator(task)
    found = evaluate(bits)
    table = evaluate.table()
    np.testing.assert_array_equal(table["bits"], bits)  # in order of evaluation
    np.testing.assert_array_equal(table["costs"], found)
    assert (table["bits"].dtype, table["costs"].dtype) == (np.int32, np.float32)
    counts = []
    other = Evaluator(task, on_evaluated=counts.append)
    other.restore(table)
    assert other.evaluations == 7
    np.testing.assert_array_equal(other(bits[::-1]), found[::-1])
    assert (other.evaluations, counts) == (7, [])
    more = np.where(bits == 8, 7, 8)[:1]
    other(more)
    assert (other.evaluations, counts) == (8, [8])
    np.testing.assert_array_equal(other.table()["bits"], np.concatenate([bits, more]))
    for column in table:
        np.testing.assert_array_equal(other.table()[column][:7], table[column])


def test_what_is_known_is_not_evaluated_again(task, bits):
    """The first three are free, the next two count when asked for, the last two were never known."""
    first, counts = Evaluator(task), []
    found = first(bits)
    evaluate = Evaluator(task, on_evaluated=counts.append)
    evaluate.know({"bits": bits[:5], "costs": found[:5]}, free=3)
    np.testing.assert_array_equal(evaluate(bits[[4, 0, 6, 0]]), found[[4, 0, 6, 0]])
    assert (evaluate.evaluations, evaluate.asked) == (2, 4)
    table = evaluate.table()
    np.testing.assert_array_equal(table["bits"], bits[[4, 0, 6]])  # only what was asked for
    np.testing.assert_array_equal(table["counted"], [True, False, True])
    assert len(counts) == 1, "one evaluation was carried out"
    everything = evaluate.everything()
    np.testing.assert_array_equal(everything["bits"], bits[[0, 1, 2, 3, 4, 6]])
    np.testing.assert_array_equal(everything["costs"], found[[0, 1, 2, 3, 4, 6]])
    other = Evaluator(task, on_evaluated=counts.append)
    other.restore(table)
    other.know(everything, free=3)
    np.testing.assert_array_equal(other(bits[[1, 3, 4, 6]]), found[[1, 3, 4, 6]])
    assert (other.evaluations, len(counts)) == (3, 1)
    np.testing.assert_array_equal(other.table()["counted"], [True, False, True, False, True])


def test_a_whole_stock_is_free_by_default(task, bits):
    first = Evaluator(task)
    found = first(bits)
    evaluate = Evaluator(task, on_evaluated=lambda count: pytest.fail("nothing is new"))
    evaluate.know(first.everything())
    np.testing.assert_array_equal(evaluate(bits), found)
    assert (evaluate.evaluations, evaluate.asked) == (0, 7)
    assert not evaluate.table()["counted"].any()


def test_an_empty_cache_and_an_empty_batch(task):
    evaluate = Evaluator(task)
    n = task.space.size
    table = evaluate.table()
    assert (table["bits"].shape, table["costs"].shape) == ((0, n), (0, 3))
    evaluate.restore(table)
    assert evaluate(np.zeros((0, n), np.int32)).shape == (0, 3)
    assert (evaluate.evaluations, evaluate.asked) == (0, 0)


def test_scores_of_a_report(task, bits):
    found = scores(task, bits[:3], [KLDivergence(), Disagreement()])
    assert list(found) == ["kl", "disagreement"]
    np.testing.assert_allclose(found["kl"], Evaluator(task)(bits[:3])[:, 0], rtol=1e-4, atol=1e-6)
    logits = np.asarray(
        jax.jit(lambda net, b, x: net.quantized_logits(b, x))(task.network, jnp.asarray(bits[1]), task.inputs)
    )
    expected = (logits.argmax(1) != np.asarray(task.target).argmax(1)).mean()
    assert found["disagreement"][1] == pytest.approx(expected)
    nothing = scores(task, bits[:0], [KLDivergence(), Disagreement()])
    assert [column.shape for column in nothing.values()] == [(0,), (0,)]


def test_refusals(task, bits, network):
    n = task.space.size
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        Evaluator(task, block=0)
    evaluate = Evaluator(task)
    with pytest.raises(ValueError, match="a configuration that the task's space does not allow"):
        evaluate(np.where(np.arange(n) == 2, 9, bits[:2]))
    narrow = fidelity(network, images(1), space=search_space(network, (4, 8)))
    with pytest.raises(ValueError, match="does not allow"):
        Evaluator(narrow)(np.full((1, n), 2))
    for wrong in (bits[0], bits[:, :-1], bits[None]):
        with pytest.raises(ValueError, match=r"bits has shape .*, the task's are \(N, "):
            evaluate(wrong)
    assert evaluate.evaluations == 0
    table = {"bits": bits, "costs": np.zeros((7, 3), np.float32), "counted": np.ones(7, bool)}
    for change in (
        {"bits": bits[:, :-1]},
        {"bits": bits[:-1]},
        {"costs": np.zeros((7, 4), np.float32)},
        {"costs": np.zeros(7, np.float32)},
    ):
        for take in (evaluate.restore, evaluate.know):
            with pytest.raises(ValueError, match="is not of this task"):
                take(table | change)
    with pytest.raises(ValueError, match=r"counted has shape \(6,\) for 7 configurations"):
        evaluate.restore(table | {"counted": np.ones(6, bool)})
    assert isinstance(task.space, BitSpace)
