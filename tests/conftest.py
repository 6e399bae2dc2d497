"""Every test runs strict: warnings are errors, no silent dtype or rank promotion, four devices.

The environment is set before jax is first imported, because XLA reads it once.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("FRUGALJAX_COMPILE_CACHE", "0")  # console scripts under test leave no files at home

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_go_with_their_module():
    """Each holds memory maps, of which a process may have some 65,000: thousands of tests exceed that."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data (FRUGALJAX_DATA); a test that needs it skips where it is absent."""
    place = os.environ.get("FRUGALJAX_DATA")
    if not place:
        pytest.skip("FRUGALJAX_DATA is not set: this test needs the development data")
    path = Path(place)
    if not path.is_dir():
        pytest.fail(f"FRUGALJAX_DATA={place} is not a folder")
    return path


@pytest.fixture
def as_users_have_it():
    """The dataclasses as outside these tests, where no annotation is checked before they are."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
