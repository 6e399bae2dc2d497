"""Sphinx configuration; `make docs` builds with warnings as errors."""

from importlib.metadata import version as _version

project = "frugaljax"
author = "the frugaljax authors"
release = version = _version("frugaljax")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 2
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "undoc-members": False, "member-order": "bysource"}
napoleon_google_docstring = True
