"""Runs a page: what is printed is what is executed, but for the substitutions that the page lists."""

import importlib
import linecache
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import pytest

from .reading import PROGRAMS, ROOT, Step, steps

WHOLE = ("zoo", "chips")  # commands that need no option

Prepare = Callable[[pytest.MonkeyPatch], dict[str, Any] | None]


@dataclass(frozen=True)
class Page:
    """How a page is run.

    Args:
        prepare: called in the page's own empty folder; makes the files that the page speaks of, sets
            stand-ins and gives the names that its snippets do not define.
        small: what is printed -> what is run in its place. Each must be found on the page.
        not_run: a command or the first line of a block -> why not. Each must be found on the page.
        late: commands that take long; only `make test-long` runs them. Each must be found on the page.
        long: the whole page is one of `make test-long`.
    """

    prepare: Prepare = lambda patch: None
    small: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    long: bool = False


def run_page(page: Page, text: str, name: str, patch: pytest.MonkeyPatch, *, late: bool = True) -> list[Step]:
    """Runs the steps of a page in one namespace, in the folder that is current; gives those that ran.

    Args:
        late: those of `page.late`, too.

    Raises:
        AssertionError: a step fails, or the page has no place for one of its substitutions or exceptions.
    """
    printed = steps(text)
    missing = [old for old in page.small if not any(old in step.text for step in printed)]
    assert not missing, f"{name} no longer holds {missing}, which tests/docs replaces"
    missing = [
        first for first in (*page.not_run, *page.late) if not any(_first(step) == first for step in printed)
    ]
    assert not missing, f"{name} no longer holds {missing}, which tests/docs excepts"
    namespace: dict[str, Any] = {"__name__": "__main__", **(page.prepare(patch) or {})}
    ran = []
    for step in printed:
        if _first(step) in page.not_run or (not late and _first(step) in page.late):
            continue
        executed = step.text
        for old, new in page.small.items():
            executed = executed.replace(old, new)
        where = f"{name}:{step.line}"
        try:
            if step.kind == "python":
                run_python(executed, where, namespace)
            else:
                run_command(executed, patch)
        except BaseException as error:
            error.add_note(f"in {where}, run as\n{executed}")
            raise
        ran.append(step)
    return ran


def _first(step: Step) -> str:
    return step.text.splitlines()[0]


def run_python(text: str, where: str, namespace: dict[str, Any]) -> None:
    linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)  # for tracebacks
    exec(compile(text, where, "exec"), namespace)


def run_command(line: str, patch: pytest.MonkeyPatch) -> None:
    """A line of a shell: console scripts are called in this process; make, pip and scripts are checked."""
    words, out = shlex.split(line), None
    if ">" in words:
        words, out = words[: words.index(">")], words[words.index(">") + 1]
    program, *arguments = words
    if program == "make":
        check_make(arguments)
    elif program == "pip":
        check_pip(arguments)
    elif program == "python":
        check_script(arguments)
    elif program in PROGRAMS:
        target = open(out, "w") if out else None  # noqa: SIM115
        try:
            with redirect_stdout(target or sys.stdout):
                run_program(program, arguments, patch)
        finally:
            if target:
                target.close()
    else:
        raise AssertionError(f"nobody knows how to run {program!r}")


def run_program(program: str, arguments: list[str], patch: pytest.MonkeyPatch) -> None:
    """`nemojax ...` as the console script does; of a command without options, a mere mention, the help."""
    mention = len(arguments) == 1 and arguments[0] not in WHOLE
    main = importlib.import_module(f"{program}.cli").main
    with patch.context() as argv:
        argv.setattr(sys, "argv", [program, *arguments, *(["--help"] if mention else [])])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    assert code == 0, f"{program} ended with exit code {code}"


def check_script(arguments: list[str]) -> None:
    """The script is there and has the options; a test of its own runs it."""
    script = ROOT / arguments[0]
    assert script.is_file(), f"there is no script {arguments[0]}"
    told = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    ).stdout
    unknown = {word for word in arguments if word.startswith("--")} - set(re.findall(r"--[\w-]+", told))
    assert not unknown, f"{arguments[0]} has no {sorted(unknown)}"


def check_make(arguments: list[str]) -> None:
    """make knows the target; the benchmark that NAME= names is there."""
    known = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert known.returncode == 0, known.stderr
    for word in arguments:
        name, _, value = word.partition("=")
        if name == "NAME":
            source = ROOT / "benchmarks" / f"{value}.py"
            assert source.is_file(), f"there is no benchmark {value}"
            assert 'if __name__ == "__main__"' in source.read_text(), f"{source.name} has no main"


def check_pip(arguments: list[str]) -> None:
    """`pip install .` and extras that pyproject.toml has."""
    assert arguments[0] == "install", arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in arguments[1:]:
        match = re.fullmatch(rf"(?:\.|{project['name']})(?:\[([\w,]+)\])?", wanted)
        assert match, f"{wanted} is not this project"
        extras = set((match[1] or "").split(",")) - {""}
        assert extras <= set(project["optional-dependencies"]), f"{wanted}: no such extra"
