"""What a page of Markdown asks its reader to run: blocks of Python, lines of shell, commands in the text."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("nemojax", "egrljax", "hwmodel", "fewshotjax")
COMMANDS = (*PROGRAMS, "make", "pip", "python")
FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(?P<text>[^`]+)`(?!`)")
SHOWN = ("", "text", "toml", "json", "{toctree}", "{eval-rst}")  # languages of blocks that nobody runs


@dataclass(frozen=True)
class Step:
    """One thing to run: "python" (a whole block) or "command" (one line)."""

    kind: str
    line: int  # of the page, from 1
    text: str


def pages() -> list[str]:
    """README.md and every page of docs, as paths from the root."""
    found = (ROOT / "docs").rglob("*.md")
    return ["README.md", *sorted(str(page.relative_to(ROOT)) for page in found if "_build" not in page.parts)]


def read(page: str) -> str:
    return (ROOT / page).read_text()


def steps(text: str) -> list[Step]:
    """All of a page, in its order.

    Raises:
        ValueError: a block of a language that is neither run nor known to be only shown.
    """
    found: list[tuple[int, Step]] = []
    for fence in FENCE.finditer(text):
        language, start = fence["language"].strip(), fence.start("text")
        if language == "python":
            found.append((start, Step("python", _line(text, start), fence["text"])))
        elif language == "bash":
            for offset, command in _lines(fence["text"]):
                found.append((start + offset, Step("command", _line(text, start + offset), command)))
        elif language not in SHOWN:
            raise ValueError(f"line {_line(text, start)}: a block of {language!r} is run by nobody")
    for start, quoted in inline(text):
        if quoted.split()[0] in COMMANDS and len(quoted.split()) > 1:
            found.append((start, Step("command", _line(text, start), quoted)))
    return [step for _, step in sorted(found, key=lambda each: each[0])]


def inline(text: str) -> list[tuple[int, str]]:
    """(offset, content) of everything in single backticks, outside of blocks; line breaks are blanks."""
    prose = FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), text)
    return [(match.start(), " ".join(match["text"].split())) for match in INLINE.finditer(prose)]


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _lines(block: str) -> list[tuple[int, str]]:
    """Commands of a shell block without comments; one that ends in a backslash goes on."""
    found, offset, begun = [], 0, None
    for line in block.splitlines(keepends=True):
        bare = re.sub(r"(^|\s)#.*", "", line.rstrip("\n")).strip()
        start, words = begun if begun else (offset, "")
        offset += len(line)
        if bare.endswith("\\"):
            begun = (start, f"{words}{bare[:-1].rstrip()} ")
            continue
        begun = None
        if words + bare:
            found.append((start, words + bare))
    return found
