"""The documentation site: `make docs` builds it into site/html/, which is read without a network.

A broken link, an example that raises or a public name that docs/api.md doesn't list fails the build. Pages are
Markdown; those in tutorials/ are notebooks, which are run when the site is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ConfigError

import bsnn
import bsnn.nn

HERE = Path(__file__).parent

project = "bsnn"
author = "the bsnn authors"
release = bsnn.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["examples"]
default_role = "code"
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_title = f"bsnn {release}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
nb_execution_mode = "force"
nb_merge_streams = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
napoleon_custom_sections = ["Shapes"]
napoleon_use_rtype = False


def as_restructured_text(_: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Escape, outside of literals, formulas and examples, what reStructuredText reads as markup: |x|, x_ and *."""
    example = False
    for i, line in enumerate(lines):
        example = line.lstrip().startswith((">>>", "...")) or (example and bool(line.strip()))
        if example or line.lstrip().startswith("..") or (i and lines[i - 1].lstrip().startswith(".. math")):
            continue
        parts = re.split(r"(:\w+:`[^`]*`|``[^`]*``|`[^`]*`|===+)", line)
        lines[i] = "".join(
            part if k % 2 else re.sub(r"(\||\*|(?<=\w)_(?!\w))", r"\\\1", part) for k, part in enumerate(parts)
        )


def check_public_names(_: Sphinx) -> None:
    listed = set(re.findall(r"^\.\. auto\w+:: bsnn\.(?:nn\.)?(\w+)$", (HERE / "api.md").read_text(), flags=re.M))
    missing = {*bsnn.__all__, *bsnn.nn.__all__} - listed
    if missing:
        raise ConfigError(f"docs/api.md: expected every public name, found none of {', '.join(sorted(missing))}")


def inline_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_math(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("builder-inited", check_public_names)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
