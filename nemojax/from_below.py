"""What users of this package need of the two below it, under its name, too."""

from egrljax import load_state as load_state, save_state as save_state
from hwmodel import coverage as coverage
