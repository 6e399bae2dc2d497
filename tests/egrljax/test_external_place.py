"""place and run on a board that is a program: what fails, what is measured twice, what a kill costs."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import egrljax as egrl

from .small import small_chip, small_work, tiny

pytestmark = pytest.mark.long  # EGRL compiles for many seconds

# Levels of all tensors -> seconds; every measurement leaves a line. Of placements with an even sum the first
# attempt fails, and those whose sum is a multiple of five fail always.
BOARD = """
import json, pathlib, sys
levels, folder = json.load(open(sys.argv[1])), pathlib.Path(sys.argv[2])
total = sum(map(sum, levels))
own = folder / ("p" + "".join(str(x) for row in levels for x in row))
own.open("a").write("x")
if total % 5 == 0 or (total % 2 == 0 and own.stat().st_size == 1):
    sys.exit("the board is busy")
print(1e-3 / (1 + total))
"""


def small():
    config = tiny(budget=20, policies=0, policy_elites=0, chromosomes=6, chromosome_elites=2, screen=1)
    learner = replace(config.learner, critic_steps=0, actor_steps=0)
    return replace(config, rollouts=0, seed_every=0, cross_type=0.0, learner=learner)


def in_process(placements):
    """The truth, without a program."""
    totals = placements.sum(axis=(1, 2))
    return np.where(totals % 5 == 0, np.nan, 1e-3 / (1.0 + totals))


def test_a_flaky_board_gives_what_a_steady_one_does_and_goes_on_from_a_checkpoint(tmp_path):
    work, chip, key = small_work(), small_chip(), jax.random.key(0)
    given = {"engine": "egrl", "config": small(), "every": 1, "solver_s": 0.0}
    # The reference must be measured: a workload on which first_fit's levels have another sum than 5, 10, ...
    steady = egrl.place(key, work, chip, board=in_process, **given)

    def board(folder):
        folder.mkdir()
        program = egrl.command([sys.executable, "-S", "-E", "-c", BOARD, "{item}", str(folder)])
        return egrl.external(program, egrl.ExternalConfig(timeout_s=30.0, retries=1, backoff_s=0.01))

    def attempts(folder):
        return sum(file.stat().st_size for file in folder.iterdir())

    found = egrl.place(key, work, chip, board=board(tmp_path / "whole"), **given)
    np.testing.assert_array_equal(found.placement, steady.placement)
    np.testing.assert_array_equal(found.course.best_s, steady.course.best_s)
    assert found.latency_s == steady.latency_s
    assert found.evaluations == 20 + 3, "failed measurements count"

    # Stopped after two chunks and begun again: what was measured is not measured again.
    again = {"checkpoint": tmp_path / "run.ckpt", "board": board(tmp_path / "parts"), **given}
    part = egrl.place(key, work, chip, on_chunk=lambda done, *_: done > 9 and "stop", **again)
    assert 9 < part.evaluations < 23
    before = attempts(tmp_path / "parts")
    whole = egrl.place(key, work, chip, **again)
    np.testing.assert_array_equal(whole.placement, found.placement)
    np.testing.assert_array_equal(whole.course.best_s, found.course.best_s)
    assert before < attempts(tmp_path / "parts") == attempts(tmp_path / "whole")
