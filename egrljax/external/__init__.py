"""Objectives that are not JAX: a board, a program, a remote service, as functions of many items at once."""

from .command import Command as Command, command as command
from .config import ExternalConfig as ExternalConfig
from .pool import (
    External as External,
    ExternalError as ExternalError,
    evaluate_all as evaluate_all,
    external as external,
)
