"""Chip files: presets against the numbers of their sources, round trips, and every complaint in one line."""

import copy
import json
import re
import tomllib
import warnings
from importlib.resources import files

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st

from hwmodel.chip import KINDS, Chip, Level, Rate
from hwmodel.chips.file import (
    ChipWarning,
    chip_from_dict,
    chip_to_dict,
    load_chip,
    preset_names,
    preset_text,
    save_chip,
    with_align,
)

SCHEMA = json.loads(files("hwmodel").joinpath("schemas", "chip.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RATE = Rate(8, 8, 1e9)
GOOD = {
    "schema": "hwmodel.chip",
    "version": 1,
    "name": "c",
    "levels": [
        {"name": "DRAM", "read_bytes_per_s": 1e9, "write_bytes_per_s": 1e9},
        {"name": "SRAM", "read_bytes_per_s": 1e10, "write_bytes_per_s": 1e10, "capacity_bytes": 1 << 20},
    ],
    "compute": [{"weight_bits": 8, "activation_bits": 8, "ops_per_s": 1e12}],
}
GB, TB, MIB = 1e9, 1e12, 1 << 20
DRAM, LLC = (32 * 1024 * MIB, 68 * GB, 68 * GB), (24 * MIB, 680 * GB, 680 * GB)
FACTS = {  # levels of each preset: capacity, read and write bandwidth; then operations per second
    "nnp_i_paperstyle": ([DRAM, LLC, (4 * MIB, 6.8 * TB, 6.8 * TB)], 92e12),
    "nnp_i_one_ice": ([DRAM, LLC, (4 * MIB, 6.8 * TB / 12, 6.8 * TB / 12)], 92e12 / 12),
    "nnp_i_aggregate": ([DRAM, LLC, (48 * MIB, 6.8 * TB, 6.8 * TB)], 92e12),
    "nnp_i_tight": ([DRAM, (8 * MIB, 680 * GB, 680 * GB), (2 * MIB, 6.8 * TB, 6.8 * TB)], 92e12),
    "imxrt1170": (
        [
            (64 * MIB, 0.2 * GB, 0.1 * GB),
            (2 * MIB, 2 * GB, 2 * GB),
            (512 * 1024, 8 * GB, 8 * GB),
        ],
        1e9,
    ),
}


def load(name):
    return load_chip(name, compute=[RATE] if name == "imxrt1170" else None, warn=False)


def changed(*path, **changes):
    """GOOD with the table at `path` updated; None removes a key."""
    document = copy.deepcopy(GOOD)
    table = document
    for step in path:
        table = table[step]
    table.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del table[key]
    return document


@pytest.mark.parametrize("name", preset_names())
def test_presets_hold_the_published_numbers(name):
    chip = load(name)
    levels, ops = FACTS[name]
    found = [(x.capacity_bytes, x.read_bytes_per_s, x.write_bytes_per_s) for x in chip.levels]
    for got, expected in zip(found, levels, strict=True):
        assert got == pytest.approx(expected, rel=1e-15)
    assert [rate.ops_per_s for rate in chip.compute] == pytest.approx([ops], rel=1e-15)
    assert chip.name == name
    assert {level.align_bytes for level in chip.levels} == {64}
    assert chip.source
    assert all(level.source for level in chip.levels)


def test_one_engine_has_a_deep_sram_slower_than_the_shared_cache():
    _, cache, sram = load("nnp_i_one_ice").levels
    assert sram.read_bytes_per_s < cache.read_bytes_per_s


def test_every_preset_has_its_facts_here():
    assert set(preset_names()) == set(FACTS)


@pytest.mark.parametrize("name", [*preset_names(), "template"])
def test_shipped_files_satisfy_the_schema(name):
    VALIDATOR.validate(tomllib.loads(preset_text(name)))


def test_the_template_says_every_key(tmp_path):
    text = preset_text("template")
    keys = [key for table in ("level", "rate") for key in SCHEMA["$defs"][table]["properties"]]
    for key in [*keys, *(set(SCHEMA["properties"]) - {"levels", "compute", "efficiency"})]:
        assert f"\n{key} = " in text or f"\n# {key} = " in text
    for table in ("[[levels]]", "[[compute]]", "[efficiency]", *KINDS):
        assert table in text
    (tmp_path / "mine.toml").write_text(text)
    load_chip(tmp_path / "mine.toml")
    everything = re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(everything)
    with pytest.warns(ChipWarning):
        full = load_chip(tmp_path / "all.toml")
    assert full.efficiency == (("dwconv", 0.25),)
    plain = load_chip(tmp_path / "mine.toml")
    assert (full.overlap, full.move_cost, full.overhead_s) == (
        plain.overlap,
        plain.move_cost,
        plain.overhead_s,
    )
    assert full.levels[1] == plain.levels[1]


def test_only_chips_that_mix_facts_warn():
    for name in preset_names():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_chip(name, compute=[RATE])
        texts = [str(entry.message) for entry in caught]
        assert bool(texts) == (name in ("nnp_i_paperstyle", "nnp_i_tight"))
        assert all(entry.category is ChipWarning for entry in caught)
    with pytest.warns(ChipWarning, match="size of one inference engine, 4 MiB, with the bandwidth of all"):
        load_chip("nnp_i_paperstyle")


def test_a_chip_without_a_published_rate_needs_one():
    with pytest.raises(
        ValueError, match=r"'imxrt1170': the chip lacks compute, .* pass one, such as compute="
    ):
        load_chip("imxrt1170")
    assert load_chip("imxrt1170", compute=[RATE]).compute == (RATE,)
    assert load_chip("nnp_i_aggregate", compute=[RATE]).compute == (RATE,)


def test_alignment_of_all_levels():
    chip = load("nnp_i_aggregate")
    packed = with_align(chip, 1)
    assert [level.align_bytes for level in packed.levels] == [1, 1, 1]
    assert with_align(packed, 64) == chip


NAMES = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
SPEEDS = st.floats(1e-6, 1e24)
AMOUNTS = st.floats(0, 1e6)
TEXTS = st.text(st.characters(codec="utf-8"))
LEVELS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "read_bytes_per_s": SPEEDS,
        "write_bytes_per_s": SPEEDS,
        "capacity_bytes": st.integers(1001, 2**53),
        "latency_s": AMOUNTS,
        "align_bytes": st.integers(1, 4096),
        "reserved_bytes": st.integers(0, 1000),
        "ports": st.sampled_from(["shared", "dual"]),
        "energy_j_per_byte": st.none() | AMOUNTS,
        "source": TEXTS,
    }
)
RATES = st.fixed_dictionaries(
    {
        "weight_bits": st.integers(1, 32),
        "activation_bits": st.integers(1, 32),
        "ops_per_s": SPEEDS,
        "energy_j_per_mac": st.none() | AMOUNTS,
    }
)
OTHERS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "overlap": st.floats(0, 1),
        "move_cost": st.booleans(),
        "double_buffer": st.booleans(),
        "count_bias": st.booleans(),
        "overhead_s": AMOUNTS,
        "source": TEXTS,
    }
)


@settings(max_examples=60, deadline=None)
@given(
    levels=st.lists(LEVELS, min_size=2, max_size=4, unique_by=lambda level: level["name"]),
    rates=st.lists(
        RATES, min_size=1, max_size=3, unique_by=lambda r: (r["weight_bits"], r["activation_bits"])
    ),
    others=OTHERS,
    efficiency=st.dictionaries(st.sampled_from(KINDS), st.floats(1e-6, 1)),
    said=st.lists(TEXTS),
    outside=st.none() | st.integers(0, 1),
)
def test_round_trip(levels, rates, others, efficiency, said, outside, tmp_path_factory):
    chip = Chip(
        levels=tuple(Level(**level) for level in levels),
        compute=tuple(Rate(**rate) for rate in rates),
        efficiency=tuple(efficiency.items()),
        warnings=tuple(said),
        external_io=None if outside is None else levels[outside]["name"],
        **others,
    )
    folder = tmp_path_factory.mktemp("chips")
    for suffix in ("toml", "json"):
        save_chip(folder / f"c.{suffix}", chip)
        assert load_chip(folder / f"c.{suffix}", warn=False) == chip
    assert chip_from_dict(chip_to_dict(chip)) == chip
    VALIDATOR.validate(chip_to_dict(chip))
    assert sorted(file.name for file in folder.iterdir()) == ["c.json", "c.toml"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("old")
    with pytest.raises(ValueError, match="surrogates"):
        save_chip(file, Chip("\ud800", load("nnp_i_tight").levels, (RATE,)))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError, match=r"c\.yaml: a chip file must end in \.toml or \.json"):
        save_chip(tmp_path / "c.yaml", load("nnp_i_tight"))


LEVEL, COMPUTE = ("levels", 1), ("compute", 0)
BAD = [
    (
        changed(*LEVEL, capacity_kb=512),
        r"levels\[1\] 'SRAM': unknown key 'capacity_kb'; give capacity_bytes = ",
    ),
    (changed(*LEVEL, prots="dual"), r"levels\[1\] 'SRAM': unknown key 'prots'; did you mean ports\?"),
    (changed(*COMPUTE, tops=1.5), r"compute\[0\]: unknown key 'tops'; give ops_per_s = 1500000000000$"),
    (changed(clock_ghz=1), r"the chip: unknown key 'clock_ghz'; there are name, levels, compute, overlap"),
    (changed(*LEVEL, name=None), r"levels\[1\] lacks name"),
    (changed(*LEVEL, write_bytes_per_s=None), r"levels\[1\] 'SRAM' lacks write_bytes_per_s"),
    (changed(*LEVEL, capacity_bytes=None), "capacity_bytes of level 'SRAM' is missing"),
    (changed(*COMPUTE, ops_per_s=None), r"compute\[0\] lacks ops_per_s"),
    (changed(name=None), "the chip lacks name"),
    (changed(levels=None), "the chip lacks levels"),
    (changed(schema=None), "schema must be 'hwmodel.chip', got None"),
    (changed(version=2), "version must be 1, got 2"),
    (changed(version=True), "version must be 1, got True"),
    (
        changed(*LEVEL, capacity_bytes="24 MiB"),
        r"levels\[1\] 'SRAM': capacity_bytes must be a whole number, got",
    ),
    (changed(*LEVEL, capacity_bytes=1.5), "capacity_bytes must be a whole number, got 1.5"),
    (changed(*LEVEL, capacity_bytes=0), r"levels\[1\], level 'SRAM': capacity_bytes must be .* got 0"),
    (changed(*LEVEL, capacity_bytes=-4096), "capacity_bytes must be a whole number .* got -4096"),
    (changed(*LEVEL, capacity_bytes=10**25), "capacity_bytes must be a whole number"),
    (changed(*LEVEL, read_bytes_per_s=0), r"levels\[1\], level 'SRAM': read_bytes_per_s must be .* got 0"),
    (changed(*LEVEL, read_bytes_per_s=-1e9), "read_bytes_per_s must be a number .* got -1000000000.0"),
    (changed(*LEVEL, read_bytes_per_s="fast"), "read_bytes_per_s must be a number, got 'fast'"),
    (changed(*LEVEL, read_bytes_per_s=10**400), "read_bytes_per_s must be a number, got 1000"),
    (
        changed(*LEVEL, ports="both"),
        r"levels\[1\] 'SRAM': ports must be 'shared' or 'dual', got 'both'",
    ),
    (changed(*LEVEL, name=7), r"levels\[1\]: name must be text, got 7"),
    (changed(*LEVEL, reserved_bytes=1 << 20), "reserved_bytes 1048576 leaves nothing"),
    (changed(levels={"name": "DRAM"}), r"levels must be a list, in TOML \[\[levels\]\], got a table of 1"),
    (changed(levels=[1, 2]), r"levels\[0\] must be a table, got 1"),
    (changed(levels=GOOD["levels"][:1]), "levels must hold a backing store and at least one memory above it"),
    (changed(compute=[]), "compute must list at least one rate"),
    (changed(move_cost="yes"), "the chip: move_cost must be true or false, got 'yes'"),
    (changed(efficiency=[1]), "efficiency must be a table"),
    (changed(efficiency={"convs": 1}), r"efficiency: unknown key 'convs'; did you mean conv\?"),
    (changed(efficiency={"conv": "1"}), "efficiency: conv must be a number, got '1'"),
    (changed(efficiency={"conv": 2}), "efficiency of conv must be a number"),
    (changed(warnings="hot"), "warnings must be a list of texts, got 'hot'"),
    (changed(overlap=2), r"overlap must be a number of \[0, 1\], got 2"),
]
BEYOND_SCHEMA = [
    (changed(external_io="LLC"), "external_io must be one of"),
    (changed(*LEVEL, name="DRAM"), "level names must be unique, got 'DRAM' twice"),
    (changed(compute=GOOD["compute"] * 2), "twice"),
]
ONLY_LOADER = ("leaves nothing",)


@pytest.mark.parametrize(("document", "message"), BAD + BEYOND_SCHEMA)
def test_what_is_wrong_is_said_in_one_line(document, message, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message) as error:
        load_chip(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(file)) + 300


@pytest.mark.parametrize("document", [d for d, message in BAD if not any(m in message for m in ONLY_LOADER)])
def test_the_schema_refuses_the_same(document):
    assert not VALIDATOR.is_valid(document)


def test_the_base_of_the_bad_files_is_good():
    assert chip_from_dict(GOOD).levels[1].capacity_bytes == 1 << 20
    assert chip_from_dict(changed(*LEVEL, capacity_bytes=8e6)).levels[1].capacity_bytes == 8_000_000
    assert VALIDATOR.is_valid(changed(*LEVEL, capacity_bytes=8e6))


HEAD = 'schema = "hwmodel.chip"\nversion = 1\nname = "c"\n'
SPEED = "[[levels]]\nname = 'DRAM'\nwrite_bytes_per_s = 1e9\nread_bytes_per_s = "


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", HEAD + "overlap = ", "is not TOML: Invalid value"),
        ("c.toml", HEAD + 'name = "d"', "is not TOML: Cannot overwrite a value"),
        ("c.toml", HEAD + SPEED + "nan", r"levels\[0\], level 'DRAM': read_bytes_per_s must be .* got nan"),
        ("c.toml", HEAD + SPEED + "inf", "read_bytes_per_s must be a number, got inf"),
        ("c.toml", HEAD + SPEED + "1e400", "read_bytes_per_s must be a number, got inf"),
        ("c.toml", HEAD + "[levels]\nname = 'DRAM'", r"levels must be a list, in TOML \[\[levels\]\]"),
        ("c.toml", "", "schema must be 'hwmodel.chip', got None; `hwmodel chip show template` prints"),
        ("c.toml", HEAD + f"x = {'[' * 5000}", "nested too deeply"),
        ("c.json", '{"schema": "hwmodel.chip"', r"is not JSON \(line 1"),
        ("c.json", '{"overlap": NaN}', "holds NaN, which is not a number of JSON"),
        ("c.json", '{"a": 1, "a": 2}', "repeats the key 'a'"),
        ("c.json", "[1]", "must be a table with schema = 'hwmodel.chip', got a list of 1"),
        ("c.json", "\x00" * (1 << 21), "has 2097152 bytes; a chip file has at most"),
        ("c.yaml", "a: 1", r"a chip file must end in \.toml or \.json; the presets are"),
    ],
)
def test_texts_that_are_no_chip(name, text, message, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_chip(str(file))
    assert str(error.value).count(str(file)) == 1
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load_chip(file)


def test_names_that_are_no_chip(tmp_path):
    with pytest.raises(ValueError, match=r"nnp_i_papersytle: no such chip; did you mean nnp_i_paperstyle\?"):
        load_chip("nnp_i_papersytle")
    with pytest.raises(ValueError, match=r"nowhere\.toml: no such file; the presets are imxrt1170, nnp_i_"):
        load_chip(tmp_path / "nowhere.toml")
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(ValueError, match=r"x\.toml: no such file"):
        load_chip(tmp_path / "x.toml")
    with pytest.raises(ValueError, match="no chip 'tpu'; there are imxrt1170"):
        preset_text("tpu")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("capacity_kb", 512, "give capacity_bytes = 512000 (524288 if KiB is meant)"),
        ("capacity_mib", 24, "give capacity_bytes = 25165824"),
        ("size", "big", "give capacity_bytes"),
        ("bandwidth_gb_per_s", 68, "give read_bytes_per_s = 68000000000 and write_bytes_per_s = 68000000000"),
        ("read_gbps", 8, "give read_bytes_per_s"),
        ("latency_ns", 12.5, "give latency_s = 1.25e-08"),
        ("energy_pj_per_bit", 2.5, "give energy_j_per_byte = 2e-11"),
        ("Ports", "dual", "did you mean ports?"),
    ],
)
def test_units_are_converted_for_the_reader(key, value, said):
    with pytest.raises(ValueError, match="unknown key") as error:
        chip_from_dict(changed(*LEVEL, **{key: value}))
    assert str(error.value).endswith(f"; {said}")
