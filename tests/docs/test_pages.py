"""Every block of Python and every console command that README.md and docs print runs.

Of make, pip and python it is looked up that what they name is there; tests of their own and CI run those.
"""

import subprocess

import jax
import pytest

from . import networks
from .pages import CLI, PAGES
from .reading import ROOT, pages, read, steps
from .running import run_command, run_page

BIN = ".venv/bin/"  # of the Makefile


RUNS = [
    *[(name, True) for name, page in PAGES.items() if page.long or page.late],
    *[(name, False) for name, page in PAGES.items() if not page.long],
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one, which is the current one; settings of JAX are those that a reader has."""
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "late"),
    [
        pytest.param(name, late, marks=pytest.mark.long if late else (), id=f"{name}{'-whole' * late}")
        for name, late in RUNS
    ],
)
def test_what_a_page_prints_runs(name, late, folder, monkeypatch):
    assert run_page(PAGES[name], read(name), name, monkeypatch, late=late)


def test_every_page_with_something_to_run_is_run():
    assert {name for name in pages() if steps(read(name))} == set(PAGES)


@pytest.mark.long
def test_make_demo_on_a_small_network(folder, monkeypatch):
    networks.small_networks(monkeypatch)
    told = subprocess.run(
        ["make", "-n", "demo", "OUT=demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = [line.removeprefix(BIN) for line in told.splitlines() if line.startswith(f"{BIN}nemojax")]
    assert commands
    for command in commands:
        run_command(f"{command} {CLI}" if " search " in command else command, monkeypatch)
    assert (folder / "demo" / "front.csv").is_file()
