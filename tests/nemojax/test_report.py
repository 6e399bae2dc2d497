"""The page holds the numbers that it was given, whole and escaped, and nothing that asks a network."""

import base64
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import egrljax as egrl
import hwmodel as hw
import nemojax as nemo
from nemojax.chip_bits import tensor_bits
from nemojax.report.chip_views import detailed_rows
from nemojax.search import Found

from . import chip_cases, report_cases
from .report_cases import LAYER, OBJECTIVE, RATIO, SETTING, Page, data_of, read

DATE = "2026-01-02 03:04 UTC"
DETAILED = 6


@pytest.fixture(scope="module")
def work():
    return report_cases.workload()


@pytest.fixture(scope="module")
def front(work):
    return report_cases.front(work)


@pytest.fixture(scope="module")
def cost(work):
    return nemo.latency(work, chip_cases.CHIP, "first_fit")


@pytest.fixture(scope="module")
def baselines(front):
    """Uniform configurations out of order, random ones of which one failed."""
    rng, n = np.random.default_rng(0), len(front.names)
    uniform = np.repeat(np.array([[8], [2], [4]]), n, axis=1)
    random = rng.random((5, 3))
    random[2, 1] = np.inf
    return {"uniform": (uniform, rng.random((3, 3))), f"random {LAYER}": random}


@pytest.fixture(scope="module")
def written(front, cost, baselines, tmp_path_factory):
    """One page with everything but a placement search."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    history = {"evaluations": np.array([10, 20, 30]), "hypervolume": np.array([0.1, np.nan, 0.3])}
    history["alloc"] = np.array([[4, 6], [5, 5], [7, 3]])
    rows = [
        ("RepMet", 1, 0.71, 0.69, 0.73),
        (LAYER, 5, np.nan, None, np.float32(0.5)),
        ("n", 1, 0.5, 0.4, 0.6),
    ]
    columns = ("method", "shots", "accuracy", "low", "high")
    table = nemo.report.Table(
        f"table {LAYER}",
        columns,
        rows,
        f"note {LAYER}",
        value="accuracy",
        low="low",
        high="high",
        group="shots",
    )
    nemo.write_report(
        path,
        front,
        title=f"title {LAYER}",
        chip=cost,
        baselines=baselines,
        history=history,
        species=("gcn", LAYER),
        tables=[table],
        pictures=[nemo.report.Picture(picture(), f"caption {LAYER}", "found")],
        settings={LAYER: SETTING},
        command=f"run {LAYER}",
        date=DATE,
        detailed=DETAILED,
    )
    return path


def picture(colour="red"):
    file = io.BytesIO()
    figure = Figure(figsize=(0.2, 0.2))
    figure.subplots().set_facecolor(colour)
    figure.savefig(file, format="png")
    return file.getvalue()


# --- numbers


def test_the_page_holds_the_front_exactly(written, front):
    found = data_of(written)["front"]
    assert (found["objectives"], found["names"]) == (list(front.objectives), list(front.names))
    columns = {column["name"]: column for column in found["columns"]}
    assert np.array_equal([columns[name]["values"] for name in front.objectives], front.costs.T)
    assert columns["report_kl"]["values"] == front.held_out["report_kl"].tolist()
    assert [columns[name]["kind"] for name in (OBJECTIVE, "report_kl")] == ["objective", "held out"]
    assert columns["report_kl"]["unit"] == "nat"
    assert np.array_equal(found["bits"], front.bits)
    assert json.loads(found["settings"]) == dict(front.settings)
    assert '"share": 1.0' in found["settings"]  # no whole number, as JavaScript would make of it
    assert found["knee"] == found["chosen"] == front.knee().index
    for row in range(len(front)):
        point = front.configuration(row)
        operations = point.operations()
        assert found["operations"] == [one.operation for one in operations]
        assert found["weight_bits"][row] == [one.weight for one in operations]
        assert found["activation_bits"][row] == [one.activation for one in operations]
        assert [column[row] for column in found["mean_bits"]] == list(point.mean_bits())


def own_bits(work, front, row):
    return hw.Bits(*(np.asarray(width) for width in tensor_bits(work, chip_cases.CHIP, front.bits[row])))


def test_memory_over_time_is_a_sum_over_the_living_tensors(written, work, front):
    """Told apart from hwmodel's own sums: step by step, tensor by tensor, from names and lifetimes."""
    (chip,) = data_of(written)["chips"]
    assert len(chip["points"]) == DETAILED
    for text, found in list(chip["points"].items())[:2]:
        levels = hw.first_fit(hw.problem(work, chip_cases.CHIP, own_bits(work, front, int(text))))
        tensors = hw.tensors(work, own_bits(work, front, int(text)), chip_cases.CHIP.count_bias)
        for k, level in enumerate(chip_cases.CHIP.levels):
            here = [t for t in tensors if levels[t.operation, t.column] == k]
            held = [
                sum(
                    -(-t.bytes // level.align_bytes) * level.align_bytes
                    for t in here
                    if t.birth <= step <= t.death
                )
                for step in range(len(work.operations))
            ]
            assert found["held_bytes"][k] == held
            weights = [t for t in here if t.column == 0]
            assert found["weight_bytes"][k] == sum(-(-t.bytes // level.align_bytes) for t in weights) * (
                level.align_bytes
            )
        assert found["output_level"] == levels[:, 1].tolist()


def test_panels_are_hwmodels_explanation(written, work, front):
    (chip,) = data_of(written)["chips"]
    row, found = next(iter(chip["points"].items()))
    bits = own_bits(work, front, int(row))
    levels = hw.first_fit(hw.problem(work, chip_cases.CHIP, bits))
    wanted = hw.explain(work, chip_cases.CHIP, levels, bits)
    np.testing.assert_allclose(found["time_s"], wanted.time_s, rtol=1e-6)
    np.testing.assert_allclose(found["level_s"], wanted.terms.level_s.T, rtol=1e-6)
    np.testing.assert_allclose(found["latency_s"], wanted.latency_s, rtol=1e-6)
    np.testing.assert_allclose(found["energy_j"], wanted.energy_j, rtol=1e-6)
    assert found["binding"] == wanted.binding.tolist()
    assert found["fits"] is wanted.fits
    without = [i for i, level in enumerate(found["weight_level"]) if level < 0]
    assert without == np.flatnonzero(~wanted.terms.holds_weights).tolist()
    assert (chip["levels"], chip["capacity"]) == (["dram", "llc", "sram"], [1 << 20, 1024, 512])


def test_every_point_has_its_latency(written, work, front):
    columns = {column["name"]: column for column in data_of(written)["front"]["columns"]}
    found = columns[f"latency on {chip_cases.CHIP.name}"]
    assert (found["kind"], found["unit"]) == ("on the chip", "s")
    for row in (0, len(front) - 1):
        problem = hw.problem(work, chip_cases.CHIP, own_bits(work, front, row))
        want = float(hw.latency(problem, hw.first_fit(problem)))
        np.testing.assert_allclose(found["values"][row], want, rtol=1e-5)


def test_given_placements_are_shown_as_they_fit(work, front, cost, tmp_path):
    """Everything on the slowest level fits as it is; everything on the fastest slides down."""
    path = tmp_path / "report.html"
    wish = np.zeros((len(front), len(work.operations), 2), np.int32)
    wish[1] = 2
    nemo.write_report(path, front, chip=cost, placements=wish, chosen=1)
    data = data_of(path)
    (chip,) = data["chips"]
    assert data["front"]["chosen"] == 1
    assert set(chip["points"]["0"]["output_level"]) == {0}
    first_fit = hw.first_fit(hw.problem(work, chip_cases.CHIP, own_bits(work, front, 1)))
    assert chip["points"]["1"]["output_level"] == first_fit[:, 1].tolist()
    assert chip["points"]["1"]["fits"]
    assert chip["about"] == "placed as given"
    with pytest.raises(ValueError, match=r"placements of 'small' must be whole numbers \(12, 6, 2\)"):
        nemo.write_report(path, front, chip=cost, placements=wish[:, :1])
    with pytest.raises(ValueError, match="placements are of chip 'other'"):
        nemo.write_report(path, front, chip=cost, placements={"other": wish})


def test_what_a_chip_cannot_compute_has_no_panel(work, front, cost, tmp_path):
    bits = front.bits.copy()
    bits[3] = 16
    wide = nemo.Front(bits, front.costs, front.objectives, front.names)
    nemo.write_report(tmp_path / "r.html", wide, chip=cost, chosen=3)
    data = data_of(tmp_path / "r.html")
    (chip,) = data["chips"]
    assert "3" not in chip["points"]
    assert chip["possible"] == [row != 3 for row in range(len(front))]
    assert data["front"]["columns"][-1]["values"][3] is None


def test_baselines_keep_their_points(written, baselines):
    uniform, random = data_of(written)["baselines"]
    order = [1, 2, 0]  # by bit-width
    assert (uniform["widths"], random["widths"]) == ([2, 4, 8], None)
    assert uniform["values"][RATIO] == baselines["uniform"][1][order, 1].tolist()
    alive = [0, 1, 3, 4]
    assert random["values"][OBJECTIVE] == baselines[random["name"]][alive, 0].tolist()


def test_learning_curves_and_tables(written):
    data = data_of(written)
    assert data["history"]["evaluations"] == [10, 20, 30]
    assert data["history"]["hypervolume"] == [0.1, None, 0.3]  # JSON has no NaN
    assert [one["members"] for one in data["history"]["species"]] == [[4, 5, 7], [6, 5, 3]]
    (table,) = data["tables"]
    assert table["rows"][1] == [LAYER, 5, None, None, 0.5]
    assert [table[what] for what in ("value", "low", "high", "group")] == [2, 3, 4, 1]


def test_a_placement_brings_its_course(work, front, tmp_path):
    bits = hw.Bits(4, 4, 8)
    levels = hw.density(hw.problem(work, chip_cases.CHIP, bits))
    course = egrl.Course(np.array([10, 20]), np.array([3e-6, 2e-6]))
    placed = egrl.Placed(
        work, chip_cases.CHIP, bits, "egrl", "because", levels, 2e-6, {"density": levels},
        {"density": 3e-6, "first_fit": np.inf}, None, course=course,
    )  # fmt: skip
    nemo.write_report(tmp_path / "r.html", front, placed=placed)
    (found,) = data_of(tmp_path / "r.html")["placed"]
    assert found["course"] == {"evaluations": [10, 20], "best": [3e-6, 2e-6]}
    assert found["rules"] == {"density": 3e-6, "first_fit": None}
    assert found["bound"] is None
    assert found["only"]["held_bytes"] == placed.explain().held_bytes.T.tolist()
    assert found["text"] == placed.text()


@pytest.mark.parametrize("count", [1, 2, 5, 8, 30])
def test_points_with_panels_are_few_and_well_chosen(front, count):
    rows = detailed_rows(front, count, 7, 4)
    assert len(rows) == min(count, len(front))
    assert rows == sorted(set(rows))
    assert {7, 4, *front.costs.argmin(axis=0).tolist()} <= set(rows) or count < 5
    assert 7 in rows


# --- outcomes of searches


def test_found_brings_its_history(front, as_users_have_it, tmp_path):
    history = {
        "evaluations": np.array([4, 8]),
        "hypervolume": np.array([0.1, 0.2]),
        "alloc": np.array([[4], [4]]),
    }
    found = Found(front, front.bits, front.costs, 8, history, ("direct",), {}, None, False)
    nemo.write_report(tmp_path / "r.html", found, knee=2)
    data = data_of(tmp_path / "r.html")
    assert data["history"]["evaluations"] == [4, 8]
    assert (data["front"]["knee"], data["front"]["chosen"]) == (2, 2)
    text = " ".join(Page(read(tmp_path / "r.html")).text)
    assert "finished" in text
    assert "false" in text


@pytest.fixture(scope="module")
def task():
    net = chip_cases.quantized()
    costs = {
        "model_ratio": nemo.costs_by_name(net)["model_ratio"],
        "seconds": nemo.latency(net, chip_cases.CHIP, "first_fit"),
    }
    return nemo.bits_task(net, lambda bits: 1 / bits.sum().astype(float), costs=costs)


def rows_of(task):
    bits = np.stack([task.space.uniform(width) for width in (2, 4, 8)]).astype(np.int32)
    return bits, np.asarray(task.costs(bits), np.float64)


def test_a_task_shows_the_chip_that_it_was_searched_on(task, tmp_path):
    bits, costs = rows_of(task)
    front = nemo.Front.of(bits, costs, task.objectives, task.space.names)
    nemo.write_report(tmp_path / "r.html", front, network=task)
    data = data_of(tmp_path / "r.html")
    units = {column["name"]: column["unit"] for column in data["front"]["columns"]}
    assert list(units) == list(task.objectives)  # its own seconds are there already
    assert units["seconds"] == "s"
    assert [chip["label"] for chip in data["chips"]] == ["small"]


def test_a_cosearch_brings_its_placements(task, tmp_path):
    bits, costs = rows_of(task)
    wish = np.zeros((3, len(task.network.workload.operations), 2), np.int32)
    seed = {"key": [0, 7]}
    (own,) = [cost.chip for _, cost in task.costs_of_bits if isinstance(cost, nemo.ChipCost)]
    found = nemo.CoFound(task.objectives, task.space.names, bits, own, wish, costs, 9, 3, 3, True, seed)
    nemo.write_report(tmp_path / "r.html", found, network=task)
    (chip,) = data_of(tmp_path / "r.html")["chips"]
    assert [set(point["output_level"]) for point in chip["points"].values()] == [{0}] * 3
    # On another chip nobody has placed anything: there its rules do, and the page says so.
    other = replace(own, name="other")
    nemo.write_report(tmp_path / "both.html", found, network=task, chip=[own, other])
    first, second = data_of(tmp_path / "both.html")["chips"]
    assert first["points"] == chip["points"]
    assert first["about"] == "placed as given"
    assert "rules" in second["about"]
    assert second["points"] != chip["points"]
    with pytest.raises(ValueError, match="placements of 'small' must be its levels, 0-"):
        nemo.write_report(tmp_path / "no.html", found, network=task, placements=wish + 9)


def test_a_joint_search_is_told_apart_into_bits_and_memories(task, tmp_path):
    joint = nemo.joint(task)
    bits, costs = rows_of(task)
    genomes = joint.space.join(bits, np.zeros((3, len(task.network.workload.operations), 2), np.int32))
    front = nemo.Front.of(np.asarray(genomes), costs, joint.objectives, joint.space.names)
    nemo.write_report(tmp_path / "r.html", front, network=joint)
    data = data_of(tmp_path / "r.html")
    assert data["front"]["names"] == list(task.space.names)
    assert [set(point["output_level"]) for point in data["chips"][0]["points"].values()] == [{0}] * 3


# --- the file


def test_names_do_nothing(written):
    """Somebody's text neither ends a script nor makes an element, and comes back as it was."""
    text = read(written)
    page = Page(text)
    assert len(page.scripts) == 3  # the data, plotly.js, ours
    assert [tag for tag, _ in page.tags if tag in ("img", "b", "i", "iframe", "object")] == ["img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<" not in page.scripts[0]
    assert LAYER not in text
    found = data_of(written)
    assert found["front"]["objectives"][0] == OBJECTIVE
    assert any(name.startswith(LAYER) for name in found["front"]["operations"])
    shown = "".join(page.text)
    for name in (f"title {LAYER}", f"table {LAYER}", f"note {LAYER}", f"caption {LAYER}", f"run {LAYER}"):
        assert name in shown
    assert SETTING.replace("\ud800", "?") in shown
    assert "a <i>network</i>" in shown


def test_the_page_allows_itself_no_network_and_only_its_own_scripts(written):
    page = Page(read(written))
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data: blob:"
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[1:]]
    assert allowed["script-src"] == " ".join(f"'sha256-{one}'" for one in hashes)
    links = [a.get("src") or a.get("href") for _, a in page.tags if "src" in a or "href" in a]
    assert all(link.startswith("data:") for link in links)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_settings_versions_and_date_are_there(written):
    text = " ".join(Page(read(written)).text)
    for word in (DATE, "run.seed", "plotly", "jaxlib", "frugaljax", "cpu"):
        assert word in text


def test_equal_arguments_give_equal_pages(front, cost, tmp_path):
    for name in ("a", "b"):
        nemo.write_report(tmp_path / name, front, chip=cost, date=DATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_page_is_whole_or_the_old_one(front, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="knee must be a row of the front, 0-11, got 12"):
        nemo.write_report(path, front, knee=12)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="cannot be written"):
        nemo.write_report(tmp_path / "absent" / "report.html", front)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chosen": -1}, "chosen must be a row of the front, 0-11, got -1"),
        ({"detailed": 0}, "detailed must be at least 1 point, got 0"),
        ({"chip": chip_cases.CHIP}, "chip 'small' is given without network"),
        ({"baselines": {"r": np.zeros((2, 2))}}, r"costs of baseline 'r' must have .*, got \(2, 2\)"),
        ({"baselines": {"r": (np.zeros((1, 2), int), np.zeros((2, 3)))}}, "bits of baseline 'r' must be 2"),
        ({"baselines": {"r": np.zeros((2, 1))}, "baseline_columns": ("kl",)}, "columns must be among"),
        ({"baseline_columns": ("kl",)}, "baseline_columns is given without baselines"),
        ({"history": {"evaluations": [1]}}, "history lacks 'hypervolume'"),
        ({"history": {"evaluations": [1], "hypervolume": [1, 2]}}, "two equally long columns"),
        (
            {"history": {"evaluations": [1], "hypervolume": [1], "alloc": [[1, 2]]}, "species": ("a",)},
            "alloc must be 1 rows by 1 species",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(front, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        nemo.write_report(tmp_path / "r.html", front, **options)
    assert not list(tmp_path.iterdir())


def test_another_network_is_refused(front, tmp_path):
    other = nemo.latency(
        hw.trace(chip_cases.apply, chip_cases.drawn_params(), chip_cases.images(0, 1)), chip_cases.CHIP
    )
    with pytest.raises(ValueError, match="give the network of the search"):
        nemo.write_report(tmp_path / "r.html", front, chip=other)
    wish = np.zeros((12, 6, 2), np.int32)
    with pytest.raises(ValueError, match="give a mapping, by their names"):
        nemo.write_report(tmp_path / "r.html", front, chip=[other, other], placements=wish)


# --- tables and pictures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "columns must be names, at least one"),
        ((("a", "a"), ()), "columns must be unique"),
        ((("a", "b"), [(1,)]), "row 0 has 1 cells for 2 columns"),
        ((("a",), [(object(),)]), "a cell must be text, a number or None"),
        ((("a",), [(1.0,)], "", "b"), "value must be one of"),
        ((("a",), [("x",)], "", "a"), "value must be a column of numbers, 'a' holds text"),
        ((("a", "b"), [(1, 2)], "", "a", "b"), "an interval needs value, low and high"),
    ],
)
def test_wrong_tables_are_refused(as_users_have_it, arguments, message):
    with pytest.raises(ValueError, match=message):
        nemo.report.Table("results", *arguments)


def test_pictures_are_pictures():
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    one, again = nemo.report.Picture.of(figure, "c"), nemo.report.Picture.of(figure, "c")
    assert one.data == again.data
    assert one.format == "png"
    assert nemo.report.Picture(b"\xff\xd8\xff\xe0").format == "jpeg"
    with pytest.raises(ValueError, match="must be PNG or JPEG, starts with b'<svg"):
        nemo.report.Picture(b"<svg onload=alert(1)>", "x")
    with pytest.raises(ValueError, match="make it smaller"):
        nemo.report.Picture(picture() + bytes(8_000_000))


def test_pictures_stand_in_the_page(written):
    page = Page(read(written))
    (source,) = [a["src"] for tag, a in page.tags if tag == "img"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture()
