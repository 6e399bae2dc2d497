"""The integer model that tests and benchmarks/placement_speed.py check against."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/hwmodel/reference.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", Path(__file__).parent / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
