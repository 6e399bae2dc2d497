"""From the numbers to HTML: one text that holds its data, its style, plotly.js and our few lines of code.

A Content-Security-Policy forbids the page everything that it does not hold: no request to any place, and no
code but the scripts here, which are named by their hashes. Names and settings are somebody's text; they are
escaped here, stand in the data as JSON without a "<", and reach the page as text alone (assets/).
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

from ..front_table import number_text
from .sections import Cell, Picture, Table

_SCRIPTS = ("base.js", "front.js", "points.js", "chips.js", "courses.js", "start.js")


def page(
    title: str,
    data: Mapping[str, Any],
    *,
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
    settings: Mapping[str, Mapping[str, Any]],
    command: str | None = None,
) -> str:
    """The whole file.

    Args:
        data: JSON values, see figures.py.
        settings: heading -> what stands under it.
    """
    from plotly.offline import get_plotlyjs  # half a second to import

    ours = "(() => {\n" + "\n".join(_file(name) for name in _SCRIPTS) + "\n})();\n"
    scripts = [get_plotlyjs(), ours]
    policy = "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(f"'sha256-{_hash(script)}'" for script in scripts),
            "style-src 'unsafe-inline'",  # plotly sets styles of what it draws
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {
        "TITLE": _text(title),
        "TABLES": "".join(_table(i, table) for i, table in enumerate(tables)),
        "PICTURES": _pictures(pictures),
        "SETTINGS": _settings(settings),
        "COMMAND": "" if command is None else f"<h3>How to do it again</h3><pre>{_text(command)}</pre>",
    }
    # One pass: what is put in is not searched for places again.
    body = re.sub(r"<!--([A-Z]+)-->", lambda place: parts[place[1]], _file("body.html"))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="generator" content="frugaljax">',
            '<link rel="icon" href="data:,">',
            f"<title>{_text(title)}</title>",
            f"<style>\n{_file('page.css')}</style>",
            "</head>",
            body,
            f'<script type="application/json" id="report-data">{_json(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>\n",
        ]
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(data: Mapping[str, Any]) -> str:
    """With every "<" written otherwise, so that no string in it ends the script or starts a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(value: Any) -> str:
    """Escaped; what UTF-8 cannot hold becomes a question mark, and NUL, which HTML has not, a space."""
    return escape(str(value).replace("\0", " ").encode("utf-8", "replace").decode("utf-8"), quote=True)


def _cell(cell: Cell) -> str:
    return "–" if cell is None else _text(number_text(cell) if isinstance(cell, float) else cell)


def _table(index: int, table: Table) -> str:
    """A card with its picture, if there is one, above the rows."""
    plot = f'<div class="plot" id="table-plot-{index}" role="img" aria-label="{_text(table.title)}"></div>'
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<section class="card"><h2>{_text(table.title)}</h2>{plot if table.value and table.rows else ""}'
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</section>"
    )


def _pictures(pictures: Sequence[Picture]) -> str:
    cards = []
    for title, group in groupby(pictures, key=lambda picture: picture.title):
        figures = "".join(
            f'<figure><img alt="{_text(one.caption or title)}" src="data:image/{one.format};base64,'
            f'{base64.b64encode(one.data).decode()}"><figcaption>{_text(one.caption)}</figcaption></figure>'
            for one in group
        )
        cards.append(
            f'<section class="card"><h2>{_text(title or "Pictures")}</h2>'
            f'<div class="pictures">{figures}</div></section>'
        )
    return "".join(cards)


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """A table under each heading; nested settings by their path."""
    parts = []
    for heading, values in settings.items():
        if values:
            rows = "".join(
                f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
                for name, value in _flat(values)
            )
            parts.append(f'<h3>{_text(heading)}</h3><table class="settings"><tbody>{rows}</tbody></table>')
    return "".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value if isinstance(value, str) else json.dumps(value, default=str)
