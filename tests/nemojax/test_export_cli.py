"""`nemojax export` on a small network in the real one's place."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import nemojax.setup_run
from nemojax import cli_export
from nemojax.configuration import Configuration, save_bits
from nemojax.export import load_jax, load_operation_bits, load_packed, read_qwix_rules
from nemojax.setup_run import RunSettings, prepare

pytest.importorskip("sklearn")
pytest.importorskip("skimage")
SETTINGS = RunSettings(
    resolution=16, calibration=2, search=2, report=2, activation_range="minmax", warm_start="none",
    species=("continuous",), seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(small_network):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            nemojax.setup_run, "by_name", lambda name, weights=None, **options: small_network(**options)
        )
        return prepare(SETTINGS)


def run(*arguments):
    app = typer.Typer()
    app.command()(cli_export.export)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def knee(prepared, tmp_path, monkeypatch):
    """A configuration's file; what it was searched with is prepared once, and must be asked for as it was."""

    def known(settings, say):
        assert settings == SETTINGS
        return prepared

    monkeypatch.setattr(cli_export, "prepare", known)
    network = prepared.task.network
    bits = np.random.default_rng(0).choice((4, 6, 8), len(network.workload.points))
    chosen = Configuration(bits, network.workload.point_names, {"kl": 0.1}, {}, {"run": SETTINGS.as_dict()})
    save_bits(tmp_path / "knee.json", chosen)
    return network, chosen


@pytest.mark.long
def test_every_file_at_once(knee, tmp_path):
    onnx = pytest.importorskip("onnx")
    network, chosen = knee
    paths = {name: tmp_path / name for name in ("net.onnx", "rules.json", "net.stablehlo", "ops.json")}
    result = run(
        tmp_path / "knee.json", "--onnx", paths["net.onnx"], "--packed", tmp_path / "packed", "--qwix",
        paths["rules.json"], "--jax", paths["net.stablehlo"], "--operations", paths["ops.json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for name in (*paths, "packed.bin", "packed.json"):
        assert name in result.output
    props = {p.key: p.value for p in onnx.load(paths["net.onnx"]).metadata_props}
    assert json.loads(props["bits"]) == chosen.as_dict()
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 16, 3)), jnp.float32)
    run_at = jax.jit(lambda network: network.quantized_logits(jnp.asarray(chosen.bits), images))
    wanted = run_at(network)
    np.testing.assert_allclose(load_jax(paths["net.stablehlo"])(images), wanted, atol=1e-3)
    loaded = load_packed(tmp_path / "packed", network)
    np.testing.assert_array_equal(run_at(loaded), wanted)
    assert load_operation_bits(paths["ops.json"], network).as_dict() == chosen.as_dict()
    assert read_qwix_rules(paths["rules.json"])[0].module_path == "stem"
    again = run(tmp_path / "knee.json", "--qwix", paths["rules.json"])
    assert isinstance(again.exception, ValueError)
    assert "rules.json exists: give another name" in str(again.exception)


@pytest.mark.usefixtures("knee")
def test_all_files_are_written_or_none(tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no rule has 16 bits")

    monkeypatch.setattr(cli_export, "save_qwix_rules", fails)
    there = set(tmp_path.iterdir())
    result = run(tmp_path / "knee.json", "--packed", tmp_path / "packed", "--qwix", tmp_path / "rules.json")
    assert "no rule has 16 bits" in str(result.exception)
    assert set(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to write: give --packed NAME or one of --onnx, --qwix, --jax, --operations FILE"),
        (["--onnx", "missing/net.onnx"], "missing/net.onnx: its folder is missing"),
        (["--packed", "missing/net"], "missing/net.bin: its folder is missing"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(arguments, message, tmp_path):
    result = run(tmp_path / "knee.json", *arguments)
    assert isinstance(result.exception, ValueError)
    assert re.search(re.escape(message), str(result.exception))


def test_a_missing_configuration_is_named(tmp_path):
    result = run(tmp_path / "knee.json", "--qwix", tmp_path / "rules.json")
    assert "knee.json: cannot be read" in str(result.exception)


def test_quantizers_that_no_option_sets_are_refused(knee, tmp_path):
    """As a search in Python may have them: no file with other quantizers than were searched is written."""
    _, chosen = knee
    for config, message in (
        ({"symmetric_weights": True}, "with quantizers that no option sets"),
        ({"grid": 3}, "the settings of the quantizers are damaged"),
    ):
        save_bits(tmp_path / "own.json", replace(chosen, settings={**chosen.settings, "quantizers": config}))
        result = run(tmp_path / "own.json", "--qwix", tmp_path / "rules.json")
        assert message in str(result.exception)
        assert not (tmp_path / "rules.json").exists()
