"""The runner itself: what it finds on a page, and that nothing wrong passes."""

import pytest

from .reading import steps
from .running import Page, run_command, run_page

PAGE = """# A page

Text with `hwmodel chip
list` in it, and `hwmodel.trace`, and `hwmodel report`.

```python
x = 1000
y = [x]
```

```bash
hwmodel chip list   # a comment
hwmodel chip \\
    list > chips.txt
```

```text
hwmodel is not run here
```

```python
y.append(len(y))
```
"""


def test_everything_is_found_in_its_order():
    found = [(step.kind, step.line, step.text.splitlines()[0]) for step in steps(PAGE)]
    assert found == [
        ("command", 3, "hwmodel chip list"),
        ("command", 4, "hwmodel report"),
        ("python", 7, "x = 1000"),
        ("command", 12, "hwmodel chip list"),
        ("command", 13, "hwmodel chip list > chips.txt"),
        ("python", 22, "y.append(len(y))"),
    ]
    with pytest.raises(ValueError, match="line 2: a block of 'sh' is run by nobody"):
        steps("```sh\nrm -r folder\n```\n")


def test_blocks_share_a_namespace_and_substitutions_are_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = {}
    page = Page(lambda patch: {"keep": kept.update}, small={"x = 1000": "x = 2"})
    ran = run_page(page, PAGE + "\n```python\nkeep(y=y)\n```\n", "page", monkeypatch)
    assert len(ran) == 7
    assert kept == {"y": [2, 1]}
    listed = (tmp_path / "chips.txt").read_text()
    assert "nnp_i_tight" in listed
    printed = capsys.readouterr().out
    assert printed.count(listed) == 2
    assert "say where the time goes" in printed, "a mention is asked for its help"


@pytest.mark.parametrize(
    ("page", "text", "message"),
    [
        (Page(small={"budget=10": "budget=1"}), "```python\nx = 1\n```\n", "no longer holds"),
        (Page(not_run={"make test": "slow"}), "`make lint`", "no longer holds"),
        (Page(), "```python\nx = 1\ny = undefined\n```\n", "undefined"),
        (Page(), "`hwmodel report nothing.onnx --chip nnp_i_tight --out out`", "exit code 2"),
        (Page(), "`make bench NAME=nothing`", "no benchmark nothing"),
        (Page(), "`make nothing`", "nothing"),
        (Page(), "`pip install '.[nothing]'`", "no such extra"),
        (Page(), "`pip install another`", "is not this project"),
        (Page(), "`python examples/nothing.py`", "no script examples/nothing.py"),
        (Page(), "`python examples/edge_camera.py --nothing 1`", r"has no \['--nothing'\]"),
    ],
)
def test_what_is_wrong_on_a_page_is_told(page, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, NameError), match=message):
        run_page(page, text, "page", monkeypatch)


def test_an_error_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError) as error:
        run_page(Page(small={"1 /": "2 /"}), "\n```python\n1 / 0\n```\n", "docs/a.md", monkeypatch)
    assert error.value.__notes__ == ["in docs/a.md:3, run as\n2 / 0\n"]


def test_unknown_programs_are_refused(monkeypatch):
    with pytest.raises(AssertionError, match="nobody knows how to run 'rm'"):
        run_command("rm -r folder", monkeypatch)


def test_output_goes_into_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_command("hwmodel chip show template > my_chip.toml", monkeypatch)
    run_command("hwmodel chip check my_chip.toml", monkeypatch)
    with pytest.raises(AssertionError, match="ended with exit code 1"):
        run_command("hwmodel chip check nothing.toml", monkeypatch)
