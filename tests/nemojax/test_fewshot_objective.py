"""Errors of one's own as a task's first objective, fewshotjax's among them: tests may import both."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs
import nemojax as nemo
from fewshotjax import methods
from fewshotjax.episodes import EpisodeConfig, class_table, draw_many
from nemojax.fingerprint import fingerprint
from nemojax.headless import headless, quantized_features
from nemojax.networks import Network
from nemojax.quantized import quantize
from nemojax.task import Task, bits_task, features_task

CLASSES, EACH, WAYS, QUERIES, EPISODES = 4, 6, 3, 3, 5


def backbone(p, x):
    return jax.nn.relu(jax.nn.relu(x.reshape(x.shape[0], -1) @ p["one"]["kernel"]) @ p["two"]["kernel"])


def apply(p, x):
    return jax.nn.log_softmax(backbone(p, x) @ p["head"]["kernel"] + p["head"]["bias"][None])


def drawn_params():
    rng = np.random.default_rng(0)
    shapes = {"one": (12, 16), "two": (16, 8), "head": (8, 5)}
    params = {name: {"kernel": np.float32(rng.normal(size=s) / 3)} for name, s in shapes.items()}
    params["head"]["bias"] = np.float32(rng.normal(size=5))
    return params


@pytest.fixture(scope="module")
def data():
    """Classes around centres of their own."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(CLASSES), EACH)
    centres = rng.normal(size=(CLASSES, 2, 2, 3))
    images = np.float32(centres[labels] + 0.7 * rng.normal(size=(len(labels), 2, 2, 3)))
    config = EpisodeConfig(WAYS, 1, QUERIES)
    table = class_table(labels, config)
    return SimpleNamespace(
        images=images, labels=labels, episodes=draw_many(jax.random.key(0), table, config, EPISODES)
    )


@pytest.fixture(scope="module")
def network(data):
    return quantize(Network("net", apply, drawn_params()), data.images[:8])


@pytest.fixture(scope="module")
def part(network):
    return headless(network)


@pytest.fixture(scope="module")
def bits(part):
    return np.asarray(nemo.search_space(part).sample(jax.random.key(3), 3))


def test_without_its_classifier_a_network_gives_what_the_classifier_reads(network, part, data, bits):
    assert [op.name for op in part.workload.operations] == ["one", "two"]
    assert part.workload.point_names == network.workload.point_names[: len(part.workload.points)]
    assert part.workload.operations[-1].is_output
    plain = jax.jit(part.logits)(data.images)
    np.testing.assert_allclose(plain, backbone(drawn_params(), data.images), rtol=1e-5, atol=1e-6)
    alone = quantize(Network("features", backbone, drawn_params()), data.images[:8])
    whole = [np.append(row, [2] * (len(network.workload.points) - len(row))).astype(np.int32) for row in bits]
    found = jax.jit(jax.vmap(lambda row: quantized_features(network, row, data.images)))(np.stack(whole))
    for row, features in zip(bits, found, strict=True):
        own = part.quantized_logits(jnp.asarray(row), data.images)
        np.testing.assert_allclose(features, own, rtol=1e-5, atol=1e-6)
        # A features network of its own has no point at its output; all else is the same.
        names = alone.workload.point_names
        of = dict(zip(part.workload.point_names, row.tolist(), strict=True))
        made = alone.quantized_logits(jnp.asarray([of[name] for name in names], jnp.int32), data.images)
        last = part.workload.points[-1]
        low, high = (end[len(names), of[last.name]] for end in (part.ranges.low, part.ranges.high))
        options = {"symmetric": False, "straight_through": False}
        wanted = nemo.fake_quantize(made, low, high, jnp.int32(of[last.name]), **options)
        np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_is_cut_once(network, part):
    assert headless(network).traced is part.traced
    assert headless(network, "head").traced is part.traced
    assert [op.name for op in headless(network, "two").workload.operations] == ["one"]
    with pytest.raises(ValueError, match="there is no operation 'three'; the last ones are"):
        headless(network, "three")
    with pytest.raises(ValueError, match="cannot be cut before 'one': it does not read one tensor of the"):
        headless(network, "one")


# Features of few bits coincide where their images do not.
COPIES = pytest.mark.filterwarnings("ignore:.*are copies of others")


def evaluated(features, labels, episodes):
    return fs.evaluate(
        jax.random.key(0), "prototypes", features, labels, ways=WAYS, queries=QUERIES, drawn=episodes
    )


def episodes_error(features, episodes):
    """1 - accuracy of prototypes over drawn episodes: fewshotjax's pure functions, mapped by hand."""
    method = methods.prototypes()

    def one(episode):
        labels = np.repeat(np.arange(WAYS, dtype=np.int32), 1)
        model = method.fit(jax.random.key(0), features[episode.support.reshape(-1)], labels, WAYS)
        scores = method.predict(model, features[episode.query.reshape(-1)])
        right = jnp.argmax(scores, axis=1) == jnp.repeat(jnp.arange(WAYS), QUERIES)
        return jnp.mean(right.astype(jnp.float32))

    return 1 - jnp.mean(jax.lax.map(one, episodes))


@pytest.fixture(scope="module")
def task(part, data):
    return features_task(part, data.images, episodes_error, data.episodes, name="fewshot_error")


@COPIES
def test_a_few_shot_error_is_a_tasks_error_in_one_compiled_evaluation(task, part, data, bits):
    assert task.objectives == ("fewshot_error", "model_ratio", "bitops_max")
    traces = []

    @jax.jit
    def run(task, rows):
        traces.append(1)
        return task.costs(rows)

    found = np.asarray(run(task, jnp.asarray(bits)))
    run(task, jnp.asarray(bits[::-1]))
    assert len(traces) == 1
    for row, cost in zip(bits, found, strict=True):
        features = np.asarray(part.quantized_logits(jnp.asarray(row), data.images))
        result = evaluated(features, data.labels, data.episodes)
        assert cost[0] == pytest.approx(1 - result.accuracies.mean(), abs=1e-6)
    np.testing.assert_allclose(nemo.Evaluator(task)(bits), found, rtol=1e-5)
    chunked = jax.jit(Task.costs, static_argnames=("chunk", "members"))(task, bits, chunk=7, members=2)
    np.testing.assert_allclose(chunked, found, atol=1e-6)
    assert (np.asarray(task.full_precision())[1:] == 1).all()


@COPIES
def test_a_function_of_the_host_is_called_between_the_programs(part, data, bits, task):
    calls = []

    def error(features, episodes):
        assert isinstance(features, np.ndarray)
        calls.append(features.shape)
        result = evaluated(features, data.labels, episodes)
        return 1 - result.accuracies.mean()

    host = features_task(part, data.images, error, data.episodes, name="fewshot_error", host=True)
    evaluate = nemo.Evaluator(host)
    np.testing.assert_allclose(evaluate(bits), nemo.Evaluator(task)(bits), atol=1e-6)
    assert calls == [(len(data.images), 8)] * 3
    evaluate(bits)
    assert len(calls) == 3  # remembered
    with pytest.raises(ValueError, match="fewshot_error runs on the host: evaluate with Evaluator"):
        host.costs(bits)


def squares(bits):
    return jnp.mean((bits.astype(jnp.float32) - 5) ** 2) / 9


def test_an_error_of_the_bits_alone_needs_no_network_run(part, bits):
    before = len(part.traced.compilations)
    task = bits_task(part, squares, name="far")
    assert task.objectives == ("far", "model_ratio", "bitops_max")
    found = nemo.Evaluator(task)(bits)
    np.testing.assert_allclose(found[:, 0], ((bits - 5.0) ** 2).mean(axis=1) / 9, rtol=1e-5)
    host = bits_task(part, lambda row: float(((row - 5.0) ** 2).mean() / 9), name="far", host=True)
    np.testing.assert_allclose(nemo.Evaluator(host, block=2)(bits), found, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(Task.costs)(task, bits), found, rtol=1e-5)
    assert len(part.traced.compilations) == before
    assert nemo.reference(task)[0] == 1
    assert nemo.reference(bits_task(part, squares, worst=4.0))[0] == 4


def cubes(bits):
    return squares(bits) ** 1.5


@COPIES
def test_tasks_of_other_errors_are_other_tasks(part, data, task):
    """A cache or a checkpoint of one would give its errors to the other."""

    def halves(features, episodes):
        return episodes_error(features, episodes) / 2

    def of_outputs(error, **options):
        return features_task(part, data.images, error, data.episodes, name="fewshot_error", **options)

    def on_host(scale):
        return bits_task(part, lambda row: float(row.sum()) * scale, host=True)

    tasks = [
        *(bits_task(part, error) for error in (squares, cubes)),
        bits_task(part, squares, worst=2.0),
        *map(on_host, (1, 2)),
        of_outputs(halves),
        of_outputs(lambda features, episodes: float(np.mean(features)), host=True),
        of_outputs(lambda features, episodes: float(np.mean(features**2)), host=True),
        task,
    ]
    marks = [fingerprint(task) for task in tasks]
    assert len(set(marks)) == len(tasks)
    assert fingerprint(of_outputs(episodes_error)) == marks[-1]
    assert fingerprint(on_host(1)) == marks[3]


def test_a_warm_start_needs_inputs(part):
    with pytest.raises(ValueError, match=r"no inputs.*'fisher'.*give warm_start=None, or bits_task\(inputs"):
        nemo.search(jax.random.key(0), bits_task(part, squares), budget=40)


def test_other_inputs(task, data):
    report = task.on(data.images[::-1].copy(), data.episodes)
    assert report.objectives == task.objectives
    with pytest.raises(ValueError, match="error is a function of the bits: it has no inputs to be on"):
        bits_task(task.network, squares).on(data.images)


@pytest.mark.long
def test_search_minimises_a_few_shot_error(task):
    config = nemo.NemoConfig(population=8, species=("continuous", "floor"), archive_capacity=32)
    found = nemo.search(jax.random.key(5), task, budget=40, config=config, warm_start="sqnr")
    assert found.finished
    assert found.front.objectives == task.objectives
    assert found.front.costs[:, 0].min() <= found.costs[0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda part, x: features_task(part, x, lambda f, t: f),
            r"must give one number, got shape \(24, 8\)",
        ),
        (lambda part, x: features_task(part, x, lambda f: 0.0), r"a JAX function of \(outputs, target\)"),
        (lambda part, x: features_task(part, x, lambda f, t: float(f.sum())), "Give host=True for one that"),
        (lambda part, x: bits_task(part, lambda b: b), r"error must give one number, got shape \(5,\)"),
        (lambda part, x: bits_task(part, squares, worst=0.0), "worst of error must be above 0 and finite"),
        (lambda part, x: bits_task(part, squares, name="model_ratio"), "which is the error's name: choose"),
    ],
)
def test_refusals(part, data, make, message):
    with pytest.raises(ValueError, match=message):
        make(part, data.images)
