"""Sphinx's settings. ``make docs`` builds the pages into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402

from fusiondistill import __version__  # noqa: E402

project, author, release = "fusiondistill", "The fusiondistill contributors", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Several expert classifiers in, one network out",
    "page_width": "1200px",
    "body_max_width": "none",
    "font_family": "system-ui, sans-serif",
    "head_font_family": "system-ui, sans-serif",
    "font_size": "16px",
    "code_font_size": "0.82em",
}
html_show_sourcelink = False
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
suppress_warnings = ["myst.xref_ambiguous"]

reference_pages.write(HERE / "reference")
