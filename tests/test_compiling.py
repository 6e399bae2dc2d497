"""What the console scripts compile is kept in a folder of bounded size, and counted; both copies of it."""

import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

import fewshotjax.compiling
import hwmodel.compiling

MODULES = (hwmodel.compiling, fewshotjax.compiling)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A user's cache folder, and JAX as it is without any settings."""
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (None, -1, 1.0), strict=True):
        jax.config.update(name, value)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FRUGALJAX_COMPILE_CACHE", "1")
    compilation_cache.reset_cache()
    yield tmp_path / "frugaljax" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def told(module, factor: float) -> list[str]:
    """What a command that compiles one new program says."""
    lines: list[str] = []
    jax.clear_caches()
    x = jnp.asarray([factor], jnp.float32)
    with module.programs_kept(lines.append), module.programs_counted(lines.append):
        jax.jit(lambda x: jnp.sin(x) * 7.25).lower(x).compile()
    return lines


def entries(folder: Path) -> list[Path]:
    return list(folder.glob("*-cache"))


def test_both_packages_have_the_same_file():
    ours, theirs = (Path(module.__file__ or "").read_text() for module in MODULES)
    assert ours == theirs


@pytest.mark.parametrize("module", MODULES)
def test_a_second_run_finds_what_the_first_compiled(module, home):
    first, second = told(module, 1.0), told(module, 1.0)
    assert [re.sub(r"[\d.]+ s", "T", line) for line in first + second] == [
        "compiled 1 program in T (0 from the cache)",
        "compiled 1 program in T (1 from the cache)",
    ]
    assert len(entries(home)) == 1
    assert home.stat().st_mode & 0o077 == 0, "others must not be able to put programs there"
    assert jax.config.jax_compilation_cache_dir is None, "the caller's settings come back"


def test_nothing_compiled_says_nothing():
    lines: list[str] = []
    with hwmodel.compiling.programs_counted(lines.append):
        pass
    assert lines == []


@pytest.mark.parametrize(
    ("end", "said"), [(SystemExit(0), 1), (SystemExit(), 1), (SystemExit(2), 0), (ValueError("wrong"), 0)]
)
def test_a_command_that_failed_says_its_error_alone(end, said):
    lines: list[str] = []

    def command():
        with hwmodel.compiling.programs_counted(lines.append):
            jax.jit(lambda x: jnp.cos(x) * 3.5).lower(jnp.ones(2)).compile()
            raise end

    with pytest.raises(type(end)):
        command()
    assert len(lines) == said


@pytest.mark.parametrize(("switch", "kept"), [("0", 0), ("1", 1)])
def test_a_variable_switches_it_off(monkeypatch, home, switch, kept):
    monkeypatch.setenv("FRUGALJAX_COMPILE_CACHE", switch)
    told(hwmodel.compiling, 2.0)
    assert len(entries(home)) == kept


def test_another_value_is_refused(monkeypatch, home):
    monkeypatch.setenv("FRUGALJAX_COMPILE_CACHE", "/somewhere")
    with pytest.raises(ValueError, match=r"FRUGALJAX_COMPILE_CACHE must be 0 .* got '/somewhere'; JAX_COMP"):
        told(hwmodel.compiling, 2.0)


def test_jax_settings_go_first(monkeypatch, home, tmp_path):
    own = tmp_path / "own"
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    told(hwmodel.compiling, 3.0)
    assert entries(own)
    assert not home.exists()


def test_the_folder_is_bounded(monkeypatch, home):
    """The least recently used goes: room for two of three programs leaves the last two."""
    monkeypatch.setattr(hwmodel.compiling, "MOST_BYTES", 10**6)
    sizes, x = [], jnp.ones(3)
    for factor in (1.5, 2.5, 3.5):
        with hwmodel.compiling.programs_kept(pytest.fail):
            jax.jit(lambda x, factor=factor: jnp.cos(x) * factor).lower(x).compile()
        sizes.append({file.name: file.stat().st_size for file in entries(home)})
        if len(sizes) == 1:
            one = sum(sizes[0].values())
            monkeypatch.setattr(hwmodel.compiling, "MOST_BYTES", int(2.5 * one))
    assert [len(found) for found in sizes] == [1, 2, 2]
    assert not set(sizes[0]) & set(sizes[2])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_written_is_said(home):
    home.parent.mkdir(parents=True)
    home.parent.chmod(0o500)
    assert told(hwmodel.compiling, 4.0)[0].startswith(f"compiled programs are not kept: {home}: ")
    home.parent.chmod(0o700)


def test_a_file_in_the_folders_place_is_said(home):
    home.parent.parent.joinpath("frugaljax").write_text("")
    assert told(hwmodel.compiling, 4.0)[0].startswith(
        f"compiled programs are not kept: {home}: Not a directory"
    )


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "~/.cache/frugaljax/compiled"),
        ("darwin", {}, "~/Library/Caches/frugaljax/compiled"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/frugaljax/compiled"),
        ("win32", {}, "~/AppData/Local/frugaljax/compiled"),
        ("linux", {"XDG_CACHE_HOME": "/own"}, "/own/frugaljax/compiled"),
    ],
)
def test_the_folder_is_the_platforms(monkeypatch, platform, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hwmodel.compiling.sys, "platform", platform)
    assert hwmodel.compiling.cache_folder() == Path(expected).expanduser()
