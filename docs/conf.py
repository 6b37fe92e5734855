"""Configuration of the site: sphinx-build -W -j auto -c docs . build/site

The site is made from the files that GitHub shows. Every document and every source file is a page
under its own path, so the links between them hold as they are. Nothing is fetched from a network:
build/site/index.html can be opened from a disk.
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
for folder in ("docs", "examples", "kernels"):
    DOCUMENTS.extend((ROOT / folder).rglob("*.md"))
LINK = re.compile(r"\]\(([^)#:\s]+\.(?:py|cuh?|h|cc))\)")
LINKED = {path.parent / target for path in DOCUMENTS for target in LINK.findall(path.read_text())}

project = html_title = "minddpm"
root_doc = "README"
# The name of a page keeps its file's suffix unless it is .md: norm.py and norm.cu are two pages.
source_suffix = {".md": "markdown", "": "source"}
include_patterns = [path.resolve().relative_to(ROOT).as_posix() for path in {*DOCUMENTS, *LINKED}]
include_patterns += ["minddpm/**.py", "kernels/**.py"]
exclude_patterns = ["build", "dist", "runs", ".git", ".venv"]
extensions = ["myst_parser", "source_pages", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4
smartquotes = False
# A field such as `bytes: int` may be the type or one of several fields of that name.
suppress_warnings = ["ref.python"]

add_module_names = False
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch", "diffusers", "gradio"]
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
toc_object_entries = False

# One file, which draws formulas as SVG: a browser may refuse fonts of a page opened from a disk.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
html_static_path = [str(MATHJAX / "tex-svg-full.js")]
mathjax_path = "tex-svg-full.js"

html_theme = "furo"
# Lines of 100 columns fit into the page.
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False
html_show_search_summary = False  # a page opened from a disk may not read other pages
