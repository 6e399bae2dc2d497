"""What users of this package need of the two below it, under its name, too."""

from egrljax import (
    Command as Command,
    External as External,
    ExternalConfig as ExternalConfig,
    ExternalError as ExternalError,
    Keep as Keep,
    command as command,
    evaluate_all as evaluate_all,
    external as external,
    load_state as load_state,
    save_state as save_state,
)
from hwmodel import coverage as coverage
