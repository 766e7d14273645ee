"""Sphinx: the site is built from the checkout's root, so that links work as they do on GitHub."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from diffbir_jax import __version__  # noqa: E402

project = "diffbir-jax"
version = release = __version__
copyright = "the authors of diffbir-jax"  # noqa: A001
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "file_pages"]
root_doc = "docs/site/index"
include_patterns = [
    "docs/**",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "assets/demo/README.md",
    "diffbir_jax/evaluation/suites/photos/README.md",
]
# Pruned, not only left out: Sphinx walks through all other folders.
exclude_patterns = [".*", "out", "work", "workdirs", "tests", "benchmarks", "*.egg-info"]
html_theme = "furo"
html_title = f"diffbir-jax {version}"
html_static_path = []
html_additional_pages = {"index": "start.html"}
templates_path = ["."]
# Shows the pages' sources; file_pages does that for the files they name.
html_copy_source = False
myst_heading_anchors = 4
# Notebooks are pages with cells. They run when they or their cells change, elsewhere than in the checkout.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parents[1] / "out" / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
nb_merge_streams = True
# Progress bars and warnings of libraries.
nb_output_stderr = "remove"
# Most blocks are commands.
highlight_language = "none"
# Docstrings have code in single backticks.
default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
# What other libraries define. Their own sites are not asked: the build needs no network.
nitpick_ignore_regex = [
    ("py:class", r"diffbir_jax\.models\.(?!presets\.Preset$).*"),  # sizes of networks
    ("py:exc", r"(ImageFile|MissingFile)Error"),  # docstrings name them without their module
    ("py:.*", r"(np|numpy|jax|jnp|PIL|Image|collections|pathlib|typing|dataclasses|os)(\..*)?"),
]
