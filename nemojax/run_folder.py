"""The folder of a run: made once, continued only under the same settings, never overwritten."""

import json
from pathlib import Path

from .front_io import write_text
from .setup_run import RunSettings

SETTINGS, CHECKPOINT = "settings.json", "search.ckpt"
_SCHEMA = "frugaljax.nemo.settings/1"


def check_folder(folder: Path, settings: RunSettings, *, resume: bool) -> None:
    """Whether a run may write there: the folder is new or empty, or holds a run of the same settings.

    Raises:
        ValueError: the folder holds something and `resume` is off, it is no run's folder, or its settings
            differ; in one line with the fix.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give --out a folder")
    if folder.exists() and any(folder.iterdir()):
        if not resume:
            raise ValueError(f"{folder} is not empty: give another --out, or --resume to continue its search")
        _check_settings(folder / SETTINGS, settings)


def start_folder(folder: Path, settings: RunSettings) -> None:
    """Makes a checked folder and writes the settings, once the run is known to be able to start."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": _SCHEMA, "settings": settings.as_dict()}, indent=2, allow_nan=False)
    write_text(folder / SETTINGS, text + "\n")


def _check_settings(file: Path, settings: RunSettings) -> None:
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no {SETTINGS}, so it is no run to resume: give another --out")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        before = dict(stored["settings"])
        if stored["schema"] != _SCHEMA:
            raise ValueError(f"schema {stored['schema']!r} is not {_SCHEMA!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): give another --out") from None
    now = settings.as_dict()
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{file.parent} was made with {name}={before.get(name)!r}, now it is {now.get(name)!r}: "
                f"resume with the same settings, or give another --out"
            )
