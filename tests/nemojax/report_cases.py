"""A front of a traced network with names that would do harm in a page, on a chip in which tensors compete."""

import html.parser
import json
import re
from pathlib import Path

import jax
import numpy as np

import hwmodel as hw
from nemojax.front import Front

from . import chip_cases

# A layer's name, an objective's, a setting's: each would run, load or hide something if it were not escaped.
LAYER = "<script>window.harm='layer'</script>"
OBJECTIVE = "error</script><img src=x onerror=\"window.harm='objective'\">"
SETTING = "<!--<script>window.harm='setting'</script> & <b>'quoted\" \u2028 \ud800"
RATIO = "model_ratio"


def workload():
    """`chip_cases.apply` with its first layer called `LAYER`."""
    params = chip_cases.drawn_params()
    named = {LAYER if name == "a" else name: leaf for name, leaf in params.items()}

    def apply(p, x):
        return chip_cases.apply({"a" if name == LAYER else name: leaf for name, leaf in p.items()}, x)

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), named)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    return hw.trace(apply, shapes, image, quantize_pooled_input=False)


def front(work, count=12):
    """Points far from each other in a plane, so that a click meets one."""
    rng = np.random.default_rng(3)
    bits = rng.integers(2, 9, (count, len(work.points)))
    steps = np.arange(count)
    costs = np.column_stack([0.1 + 0.05 * steps, 0.9 - 0.05 * steps + 0.003 * (steps % 3), 1.0 + steps % 4])
    again = {"report_kl": 0.3 + 0.01 * rng.random(count)}
    settings = {"run": {"seed": 7, "note": SETTING}, "network": "a <i>network</i>", "share": 1.0}
    return Front(bits, costs, (OBJECTIVE, RATIO, "bitops_max"), work.point_names, settings, again)


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of each script, as a reader of HTML sees them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self._in_script, self.text = [], [], False, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True

    def handle_endtag(self, tag):
        if tag == "script":
            self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text.append(data)


def read(path: Path) -> str:
    return path.read_bytes().decode()


def data_of(path: Path) -> dict:
    """What a browser's JSON.parse would find."""
    found = re.search(
        r'<script type="application/json" id="report-data">(.*?)</script>', read(path), re.DOTALL
    )
    assert found
    return json.loads(found[1], parse_constant=lambda name: 1 / 0)
