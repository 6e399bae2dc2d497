"""Rules for Qwix: their files, and Qwix itself quantizing a Flax model with them."""

import contextlib
import importlib.util
import json
import re
import warnings
from importlib import resources
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.export import QwixRule, load_qwix_rules, qwix_rules, read_qwix_rules, save_qwix_rules

spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

IMAGES = ref.draw(0, (2, 8, 8, 3))


class Body(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="stem")(x))
        return nn.relu(nn.Conv(8, (3, 3), feature_group_count=8, name="conv.dw")(x))


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Body(name="body")(x).mean((1, 2))
        return nn.Dense(5, name="head")(nn.relu(nn.Dense(16, name="hidden")(x)))


WIDTHS = {  # module: bits of its weight, and of what feeds it
    "body/stem": (8, 8),
    "body/conv.dw": (6, 6),
    "hidden": (2, 7),
    "head": (5, 3),
}


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(Model().init, jax.random.key(0), IMAGES)
    return jax.tree.map(
        lambda s: jnp.asarray(ref.kernel(1, *s.shape) if len(s.shape) > 1 else np.zeros(s.shape, np.float32)),
        shapes,
    )


@pytest.fixture(scope="module")
def net(params):
    return ref.network(Model().apply, params, IMAGES)


def bits_of(net, widths):
    names, bits = net.workload.point_names, dict.fromkeys(net.workload.point_names, 8)
    for op in net.workload.operations:
        if op.name in widths:
            bits[names[op.weight_point]], bits[names[op.input_point]] = widths[op.name]
    return bits


@contextlib.contextmanager
def as_qwix_needs_it():
    """Qwix (0.1.8) promotes types and ranks silently, and touches a deprecated name of Flax."""
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.filterwarnings("ignore", message="'VariableState' was removed", category=DeprecationWarning)
        yield


def test_one_rule_a_module(net):
    rules = qwix_rules(net, bits_of(net, WIDTHS))
    assert rules == (
        QwixRule("body/stem", "int8", "int8"),
        QwixRule(r"body/conv\.dw", "int6", "int6"),
        QwixRule("hidden", "int2", "int7"),
        QwixRule("head", "int5", "int3"),
    )
    for rule, module in zip(rules, WIDTHS, strict=True):
        assert [m for m in WIDTHS if re.fullmatch(rule.module_path, m)] == [module]


def test_thirty_two_bits_have_no_rule(net):
    rules = qwix_rules(net, bits_of(net, WIDTHS | {"hidden": (32, 8), "head": (4, 32)}))
    assert [(r.module_path, r.act_qtype) for r in rules[2:]] == [("head", None)]


def test_widths_that_qwix_lacks_are_named(net):
    with pytest.raises(ValueError, match=r"'hidden.weight' has 9 bits, and Qwix has types of 2-8"):
        qwix_rules(net, bits_of(net, WIDTHS | {"hidden": (9, 8)}))
    with pytest.raises(ValueError, match=r"'hidden.activation' has 16 bits"):
        qwix_rules(net, bits_of(net, WIDTHS | {"head": (8, 16)}))


def test_a_module_that_is_called_twice_gets_the_widest_activations():
    def fn(p, x):
        y = jnp.tanh(x @ p["layer"]["kernel"])
        return jnp.tanh(y @ p["layer"]["kernel"]) @ p["last"]["kernel"]

    x = ref.draw(0, (3, 6))
    net = ref.network(
        fn, {"layer": {"kernel": ref.kernel(1, 6, 6)}, "last": {"kernel": ref.kernel(2, 6, 4)}}, x
    )
    bits = dict.fromkeys(net.workload.point_names, 8) | {"input": 4, "layer.activation": 6}
    assert [(r.module_path, r.act_qtype) for r in qwix_rules(net, bits)] == [
        ("layer", "int6"),
        ("last", "int8"),
    ]


def test_the_file_keeps_its_published_schema_and_comes_back(net, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    rules = save_qwix_rules(tmp_path / "rules.json", net, bits_of(net, WIDTHS | {"head": (8, 32)}))
    assert rules == qwix_rules(net, bits_of(net, WIDTHS | {"head": (8, 32)}))
    schema = json.loads(resources.files("nemojax").joinpath("schemas", "qwix_rules.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads((tmp_path / "rules.json").read_text())
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data) == set(schema["properties"])
    assert not jsonschema.Draft202012Validator(schema).is_valid(data | {"rules": [{"module_path": "a"}]})
    assert read_qwix_rules(tmp_path / "rules.json") == rules


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "rules is no list"),
        ([{"module_path": "a"}], r"rules\[0\] has other fields"),
        (
            [{"module_path": 1, "weight_qtype": "int8", "act_qtype": None}],
            r"rules\[0\].module_path is no string",
        ),
        ([{"module_path": "(", "weight_qtype": "int8", "act_qtype": None}], "is no regular expression"),
        (
            [{"module_path": "a", "weight_qtype": "int9", "act_qtype": None}],
            "weight_qtype must be one of int2, ",
        ),
        (
            [{"module_path": "a", "weight_qtype": "int8", "act_qtype": 8}],
            r"rules\[0\].act_qtype is no string",
        ),
        (
            [{"module_path": "a", "weight_qtype": "int8", "act_qtype": "i8"}],
            "act_qtype must be one of int2, ",
        ),
    ],
)
def test_damaged_files_are_refused(net, rules, message, tmp_path):
    save_qwix_rules(tmp_path / "rules.json", net, bits_of(net, WIDTHS))
    data = json.loads((tmp_path / "rules.json").read_text()) | {"rules": rules}
    (tmp_path / "rules.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        read_qwix_rules(tmp_path / "rules.json")
    assert str(tmp_path / "rules.json") in str(error.value)


def qwix_dtypes(params):
    """module -> (type that the kernel is stored as, type that was asked for)."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda leaf: hasattr(leaf, "how"))[
        0
    ]:
        module = "/".join(str(key.key) for key in path[:-1])
        if hasattr(leaf, "how"):
            found[module] = (str(leaf.array.qvalue.dtype), leaf.how.qtype)
        else:
            assert path[-1].key == "bias"
    return found


def test_qwix_quantizes_each_module_as_its_rule_says(net, params, tmp_path):
    """Post-training: the types of the weights in the result, and logits near the model's own."""
    qwix = pytest.importorskip("qwix")
    save_qwix_rules(tmp_path / "rules.json", net, bits_of(net, WIDTHS))
    rules = load_qwix_rules(tmp_path / "rules.json")
    assert all(isinstance(rule, qwix.QuantizationRule) for rule in rules)
    provider = qwix.PtqProvider(rules)
    with as_qwix_needs_it():
        model = qwix.quantize_model(Model(), provider)
        shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
        quantized = qwix.quantize_params(params["params"], shapes["params"])
    storage = {2: "int4", 5: "int8", 6: "int8", 8: "int8"}
    assert qwix_dtypes(quantized) == {
        module: (storage[weight], f"int{weight}") for module, (weight, _) in WIDTHS.items()
    }
    assert not provider.get_unused_rules()


def test_qwix_trains_with_the_rules(net, params):
    """Its provider for quantization-aware training runs the mixed model; fewer bits are further away."""
    qwix = pytest.importorskip("qwix")
    full = np.asarray(jax.jit(Model().apply)(params, IMAGES))
    errors = []
    # XLA's CPU code multiplies no pair of 4-bit types, so at most one side has 4 bits or fewer.
    for widths in (
        dict.fromkeys(WIDTHS, (8, 8)),
        WIDTHS | {"body/stem": (7, 8)},
        dict.fromkeys(WIDTHS, (5, 5)),
    ):
        rules = [qwix.QuantizationRule(**vars(rule)) for rule in qwix_rules(net, bits_of(net, widths))]
        provider = qwix.QtProvider(rules)
        with as_qwix_needs_it():
            model = qwix.quantize_model(Model(), provider)
            errors.append(ref.difference(np.asarray(model.apply(params, IMAGES)), full))
        assert not provider.get_unused_rules()
    assert errors[0] < 0.05
    assert errors[0] < errors[2] < errors[1] < 2


def test_convolutions_that_qwix_refuses(net, params):
    """As the docstring says: its PTQ wants equal bits there."""
    qwix = pytest.importorskip("qwix")
    rules = [
        qwix.QuantizationRule(**vars(rule)) for rule in qwix_rules(net, bits_of(net, {"body/stem": (6, 8)}))
    ]
    model = qwix.quantize_model(Model(), qwix.PtqProvider(rules))
    with as_qwix_needs_it(), pytest.raises(ValueError, match="requires same act_qtype and weight_qtype"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_without_qwix_it_says_what_to_install(net, tmp_path, monkeypatch):
    save_qwix_rules(tmp_path / "rules.json", net, bits_of(net, WIDTHS))
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    with pytest.raises(ImportError, match="pip install qwix"):
        load_qwix_rules(tmp_path / "rules.json")
