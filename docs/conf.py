# SPDX-License-Identifier: Apache-2.0
"""Configuration of the documentation: read by `make docs` and by rosdoc2 on the ROS build farm."""

import sys
from pathlib import Path

# rosdoc2 executes this file from a copy of the folder, beside an installed sfseg_ros.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "package.xml").is_file():
    sys.path.insert(0, str(_ROOT))

project = "sfseg_ros"
author = "sfseg_ros maintainers"
copyright = "sfseg_ros contributors, Apache-2.0"
version = release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_rtd_theme"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
# The second line excludes what rosdoc2 puts beside these pages; reference/python.md has the API.
exclude_patterns = [
    "_build",
    *("modules.rst", "sfseg_ros*.rst", "standards.rst", "standard_docs", "__readme_include.rst"),
]

html_theme = "sphinx_rtd_theme"
html_theme_options = {"collapse_navigation": False, "navigation_depth": 3}
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]
html_show_sphinx = False

myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
