"""What README.md and docs name is there: files, functions, tests, links, commands of tables."""

import ast
import doctest
import importlib
import re

import pytest

from .reading import FENCE, PROGRAMS, ROOT, inline, pages, read
from .running import check_make

FOLDERS = (*PROGRAMS, "benchmarks", "docs", "examples", "notebooks", "tests")
NAMED = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|ipynb|json|toml|md|png|c)(?:::[\w.]+)?")
NUMBER = re.compile(r"[-+]?[\d,.]+(?: \[[^\]]*\])?")
# Tables of numbers that no benchmark measures, by their header's first cells -> why.
COUNTED = {
    (
        "network",
        "parameters",
        "quantizers, pooled input without / with",
    ): "counts, tests/nemojax/test_zoo_counts.py",
    ("setting", "`tuned`", "`paper_like`"): "settings",
}


def test_files_functions_and_notebooks_named_in_the_text_are_there():
    for page in pages():
        for _, quoted in inline(read(page)):
            if NAMED.fullmatch(quoted):
                path, _, name = quoted.partition("::")
                assert (ROOT / path).is_file(), f"{page} names {path}, which is not there"
                if name:
                    assert name in defined(path), f"{page} names {quoted}, which is not there"
            if re.fullmatch(r"\d\d_\w+", quoted):
                assert (ROOT / "notebooks" / f"{quoted}.ipynb").is_file(), f"{page}: no notebook {quoted}"


def test_tests_named_in_the_text_are_there():
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in pages():
        named = set(re.findall(r"\btest_\w+\.py\b", read(page)))
        assert named <= known, f"{page} names {sorted(named - known)}"


def defined(path: str) -> set[str]:
    """Functions, classes, methods, fields and constants of a file, as NAME or CLASS.NAME."""
    found = set()

    def collect(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")
            for target in [*getattr(node, "targets", ()), getattr(node, "target", None)]:
                if isinstance(target, ast.Name):
                    found.add(prefix + target.id)

    collect(ast.parse((ROOT / path).read_text()).body, "")
    return found


def test_links_lead_somewhere():
    for page in pages():
        prose = FENCE.sub("", read(page))
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            file = target.partition("#")[0]
            if file and "://" not in file:
                assert ((ROOT / page).parent / file).exists(), f"{page} links to {target}"


def sections(text: str) -> list[str]:
    """Each section with the text of those that it is part of; a heading in a block is none."""
    open_: list[tuple[int, list[str]]] = [(0, [])]
    closed = []
    in_block = False
    for line in text.splitlines():
        in_block ^= line.startswith("```")
        heading = None if in_block else re.match(r"(#+) ", line)
        if heading:
            while open_[-1][0] >= len(heading[1]):
                closed.append("\n".join("\n".join(lines) for _, lines in open_))
                open_.pop()
            open_.append((len(heading[1]), []))
        open_[-1][1].append(line)
    while open_:
        closed.append("\n".join("\n".join(lines) for _, lines in open_))
        open_.pop()
    return closed


def tables(text: str) -> list[list[list[str]]]:
    """Cells of each table, the line of dashes left out."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def measured(table: list[list[str]]) -> bool:
    """Whether most cells beside the first column are numbers."""
    cells = [cell for row in table[1:] for cell in row[1:] if cell]
    return 2 * sum(bool(NUMBER.fullmatch(cell)) for cell in cells) > len(cells) > 0


def test_each_measured_table_says_its_command():
    seen = 0
    for page in pages():
        said = {str(table) for part in sections(read(page)) if re.search(r"make\s+bench\s+NAME=", part)
                for table in tables(part)}  # fmt: skip
        for table in tables(read(page)):
            if measured(table) and not any(tuple(table[0][: len(head)]) == head for head in COUNTED):
                seen += 1
                assert str(table) in said, f"{page}: no `make bench NAME=...` by the table {table[0]}"
    assert seen > 10


def test_benchmarks_named_in_the_text_are_there():
    names = {name for page in pages() for name in re.findall(r"make\s+bench\s+NAME=(\w+)", read(page))}
    assert len(names) > 10
    for name in sorted(names):
        check_make(["bench", f"NAME={name}"])


def test_examples_in_docstrings_are_true():
    for program in PROGRAMS:
        for path in sorted((ROOT / program).rglob("*.py")):
            if ">>>" in path.read_text():
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                assert doctest.testmod(module).failed == 0, path


@pytest.mark.parametrize("page", ["docs/equations.md"])
def test_every_row_of_the_equations_has_a_function_and_a_test(page):
    rows = [row for table in tables(read(page)) for row in table[1:]]
    assert len(rows) > 50
    for row in rows:
        function, test = row[-2:]
        assert re.match(r"`\w+/[\w/]+\.py::[\w.]+`", function), row
        assert re.match(r"`tests/\w+/test_\w+\.py`", test), row
