"""Seeds on several devices: the numbers of one device. The devices are virtual, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import egrljax as egrl

from .small import algorithm, small_chip, small_work, tiny

SCRIPT = """
import jax, numpy as np
import egrljax as egrl
from small import algorithm, small_chip, small_work, tiny

assert jax.device_count() == 2
env = egrl.environment(small_work(), small_chip())
algo = algorithm(tiny(budget=40), env)
keys = jax.random.split(jax.random.key(0), 3)
spread = egrl.run_seeds(keys, algo, env, devices=jax.devices())
assert [state.best_s.devices() for state, _ in spread] == [{jax.devices()[i]} for i in (0, 1, 0)]
raw = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
same = []
for key, found in zip(keys, spread):
    alone = egrl.run(algo, env, jax.jit(algo.init)(key, env), every=2)
    equal = jax.tree.map(lambda a, b: np.array_equal(np.asarray(raw(a)), np.asarray(raw(b))), found, alone)
    same.append(all(jax.tree.leaves(equal)))
sums = {float(np.sum(state.population.policies)) for state, _ in spread}
print(same, len(sums))
"""


@pytest.mark.long
def test_seeds_spread_over_devices_are_those_of_one():
    folder = Path(__file__).resolve().parent
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.strip() == "[True, True, True] 3"


def test_no_devices_are_refused():
    env = egrl.environment(small_work(), small_chip())
    with pytest.raises(ValueError, match="at least one, got none"):
        egrl.run_seeds(jax.random.split(jax.random.key(0), 2), algorithm(tiny(), env), env, devices=[])
