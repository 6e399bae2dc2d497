"""The page in a real browser: opened from a file, clicked, brushed, used by keyboard and on a phone.

Where no browser is found these tests skip; with FRUGALJAX_BROWSER set to a path they fail instead.
"""

import csv
import os
import shutil
from importlib.util import find_spec

import numpy as np
import pytest

import nemojax as nemo

from . import chip_cases, report_cases
from .report_cases import OBJECTIVE, RATIO, data_of

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SLOW_MS = 120_000  # a loaded machine takes long to start a browser and to draw


@pytest.fixture(scope="module")
def browser():
    wanted = os.environ.get("FRUGALJAX_BROWSER")
    path = wanted or next((found for name in NAMES if (found := shutil.which(name))), None)
    if find_spec("playwright") is None or path is None:
        reason = "no chromium on PATH" if path is None else "playwright is not installed (extra dev)"
        (pytest.fail if wanted else pytest.skip)(f"{reason}: the page cannot be opened")
    if not os.access(path, os.X_OK):
        pytest.fail(f"FRUGALJAX_BROWSER={path} is no program")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS), timeout=SLOW_MS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def front():
    return report_cases.front(report_cases.workload())


@pytest.fixture(scope="module")
def path(front, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    work = report_cases.workload()
    wish = np.zeros((len(front), len(work.operations), 2), np.int32)
    rng = np.random.default_rng(0)
    baselines = {
        f"uniform {report_cases.LAYER}": (np.repeat([[4], [8]], len(front.names), 1), rng.random((2, 3))),
        "random": rng.random((4, 3)),
    }
    history = {"evaluations": np.array([10, 20]), "hypervolume": np.array([0.1, 0.2])}
    rows = [(report_cases.LAYER, 0.7, 0.6, 0.8), ("means", 0.6, 0.5, 0.65)]
    columns = ("method", "accuracy", "low", "high")
    nemo.write_report(
        path,
        front,
        title=f"title {report_cases.LAYER}",
        chip=nemo.latency(work, chip_cases.CHIP, "first_fit"),
        placements=wish,
        baselines=baselines,
        history=history,
        tables=[nemo.report.Table("episodes", columns, rows, value="accuracy", low="low", high="high")],
        settings={report_cases.LAYER: report_cases.SETTING},
        detailed=8,
    )
    return path


class Seen:
    """What a browser asked for and complained of."""

    def __init__(self, page):
        self.requests, self.complaints = [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))


def opened(browser, path, **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(SLOW_MS)
    seen = Seen(page)
    page.goto(path.as_uri())
    page.wait_for_selector("#front-plot .points path")
    return page, seen


@pytest.fixture(scope="module")
def desktop(browser, path):
    """One page for all tests of this module; each puts back what it filters."""
    page, seen = opened(browser, path, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield page, seen
    page.context.close()


@pytest.fixture
def page(desktop):
    return desktop[0]


def bits_drawn(page):
    """The two rows of bars, from the plot itself."""
    drawn = page.evaluate(
        "document.getElementById('bits-plot').data.filter((t) => t.type === 'bar').map((t) => t.y)"
    )
    return [list(row) for row in drawn]


def bits_of(front, row):
    operations = front.configuration(row).operations()
    return [[one.weight for one in operations], [one.activation for one in operations]]


def centre(page, row):
    """Where a point of the front is on the screen."""
    page.locator("#front-plot").scroll_into_view_if_needed()
    box = (
        page.locator("#front-plot .scatterlayer .trace").first.locator(".points path").nth(row).bounding_box()
    )
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def click(page, row):
    """As a person does: plotly looks under the pointer 20 times a second; a click between goes nowhere."""
    page.mouse.move(*centre(page, row))
    page.locator("#front-plot .hoverlayer", has_text=f"point {row}").wait_for()
    page.mouse.down()
    page.mouse.up()


def rows_shown(page):
    lines = page.locator("#points tbody tr:not([hidden])")
    return {int(row) for row in lines.evaluate_all("(lines) => lines.map((line) => line.dataset.row)")}


def test_it_opens_without_a_request_or_a_complaint(desktop, path, front):
    page, seen = desktop
    assert page.locator("#point-title").inner_text() == f"Point {front.knee().index}, the knee"
    assert bits_drawn(page) == bits_of(front, front.knee().index)
    assert rows_shown(page) == set(range(len(front)))
    assert page.locator("#table-plot-0 .errorbars").count() == 1
    assert seen.requests == [path.as_uri()]
    assert seen.complaints == []


@pytest.mark.parametrize("row", [2, 9])
def test_a_click_on_a_point_shows_its_bits(page, front, row):
    click(page, row)
    page.locator("#point-title", has_text=f"Point {row}").wait_for()
    assert bits_drawn(page) == bits_of(front, row)
    assert page.locator("#points tr[aria-current=true]").get_attribute("data-row") == str(row)
    ring = page.evaluate("(({x, y}) => [x[0], y[0]])(document.getElementById('front-plot').data.at(-1))")
    assert ring == [front.costs[row, 1], front.costs[row, 0]]


def test_a_box_filters_the_table_and_a_button_shows_all_again(page, front):
    places = [centre(page, row) for row in range(len(front))]
    (left, right), top = sorted(places[row][0] for row in (3, 6)), min(y for _, y in places)
    page.mouse.move(left - 6, top - 8)
    page.mouse.down()
    page.mouse.move((left + right) / 2, top + 40, steps=3)
    page.mouse.move(right + 6, max(y for _, y in places) + 8, steps=3)
    page.mouse.up()
    inside = {row for row, (x, _) in enumerate(places) if left - 6 <= x <= right + 6}
    assert {3, 4, 5, 6} == inside
    page.locator("#count", has_text="brushed").wait_for()
    assert rows_shown(page) == inside
    page.select_option("#axis-x", "bitops_max")  # the brush is kept in other axes
    assert rows_shown(page) == inside
    page.click("#clear")
    assert rows_shown(page) == set(range(len(front)))
    page.select_option("#axis-x", RATIO)


def test_axes_and_colour_are_chosen_among_all_columns(page, front):
    names = page.locator("#axis-x option").evaluate_all("(options) => options.map((one) => one.value)")
    assert names == [*front.objectives, "report_kl", "latency on small"]
    for name, values in ((OBJECTIVE, front.costs[:, 0]), ("report_kl", front.held_out["report_kl"])):
        page.select_option("#axis-x", name)
        page.select_option("#axis-colour", name)
        drawn = page.evaluate("((t) => [t.x, t.marker.color])(document.getElementById('front-plot').data[0])")
        assert drawn == [values.tolist(), values.tolist()]
    title = page.locator("#front-plot .xtitle").text_content()
    assert title.startswith("report_kl")
    page.select_option("#axis-x", RATIO)


def test_rows_are_chosen_by_keyboard(page, front):
    page.locator("#points tbody tr[data-row='4']").focus()
    page.keyboard.press("Enter")
    assert bits_drawn(page) == bits_of(front, 4)
    page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    assert page.locator("#point-title").inner_text().startswith("Point 5")
    page.click("#previous")
    assert page.locator("#point-title").inner_text().startswith("Point 4")
    page.locator("#points thead button", has_text=RATIO).click()
    order = page.locator("#points tbody tr").evaluate_all("(lines) => lines.map((line) => +line.dataset.row)")
    assert order == np.argsort(front.costs[:, 1], kind="stable").tolist()
    page.locator("#points thead button", has_text="point").click()


def test_files_are_those_of_the_library(page, front, tmp_path):
    page.locator("#points tbody tr[data-row='7']").press("Enter")
    with page.expect_download() as download:
        page.click("#save-bits")
    download.value.save_as(tmp_path / "bits.json")
    found, wanted = nemo.load_bits(tmp_path / "bits.json", front.names), front.configuration(7)
    assert found.as_dict() == wanted.as_dict()
    assert (found.costs, found.held_out) == (wanted.costs, wanted.held_out)
    assert found.settings == wanted.settings
    with page.expect_download() as download:
        page.click("#save-csv")
    download.value.save_as(tmp_path / "front.csv")
    front.to_csv(tmp_path / "wanted.csv")
    tables = []
    for name in ("front.csv", "wanted.csv"):
        with (tmp_path / name).open(newline="") as file:
            tables.append(list(csv.reader(file)))
    assert tables[0][0] == tables[1][0]
    np.testing.assert_array_equal(np.array(tables[0][1:], float), np.array(tables[1][1:], float))


def test_memory_and_placement_are_the_points(page, path):
    chip = data_of(path)["chips"][0]
    row, other = list(chip["points"])[1], next(r for r in range(12) if str(r) not in chip["points"])
    page.locator(f"#points tbody tr[data-row='{row}']").press("Enter")
    drawn = page.evaluate("document.getElementById('memory-plot').data.map((t) => [t.name, t.y])")
    areas = {name: values for name, values in drawn if name.startswith("dram:") and "capacity" not in name}
    held = np.sum(list(areas.values()), axis=0)
    assert held[:-1].tolist() == chip["points"][row]["held_bytes"][0]
    bars = page.evaluate(
        "document.getElementById('latency-plot').data.filter((t) => t.type === 'bar').map((t) => t.y)"
    )
    assert sorted(time for times in bars for time in times) == sorted(chip["points"][row]["time_s"])
    page.locator(f"#points tbody tr[data-row='{other}']").press("Enter")
    assert not page.locator("#chip-panels").is_visible()
    assert "8 of 12 points" in page.locator("#chip-missing").inner_text()
    page.click("#chip-missing button")
    assert page.locator("#chip-panels").is_visible()


def test_names_do_nothing_in_a_browser(desktop, path):
    """After everything above was drawn with names that are markup."""
    page, seen = desktop
    page.locator("#bits-details summary").click()
    page.locator("#operations-details summary").click()
    for table in ("#bits-table", "#operations"):  # filled when the browser tells that they are open
        page.locator(f"{table} tbody tr").first.wait_for()
    assert report_cases.LAYER in page.locator("#bits-table").inner_text()
    assert report_cases.LAYER in page.locator("#operations").inner_text()
    assert page.locator("h1").inner_text() == f"title {report_cases.LAYER}"
    assert page.evaluate("window.harm === undefined")
    assert page.locator("script").count() == 3
    assert page.locator("img").count() == 0
    assert report_cases.LAYER[:8] in page.locator("#front-plot .legend").text_content()
    assert [url for url in seen.requests if not url.startswith("blob:")] == [path.as_uri()]
    assert seen.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser, path, front, scheme):
    size = {"width": 390, "height": 844}
    page, seen = opened(browser, path, viewport=size, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate(
        "[...document.querySelectorAll('.card, .plot')].map((one) => one.getBoundingClientRect().right)"
    )
    assert max(wide) <= 390
    page.touchscreen.tap(*centre(page, 2))
    page.locator("#point-title", has_text="Point 2").wait_for()
    assert bits_drawn(page) == bits_of(front, 2)
    red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) < 80) == (scheme == "dark")
    assert seen.complaints == []
    page.context.close()
