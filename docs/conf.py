"""Sphinx builds these pages and the API reference: make docs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "ps_jax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Person search in JAX", "page_width": "1100px", "fixed_sidebar": True}
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["tensorflow", "tensorflow_datasets", "array_record"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
