"""Sphinx: the pages of this folder as a site that needs no network (make docs)."""

project = "VirFluoNet"
author = "the authors of VirFluoNet"
extensions = ["myst_nb"]
exclude_patterns = ["notebooks/*.py"]
myst_heading_anchors = 4  # links to headings, as GitHub makes them
nb_execution_mode = "off"  # outputs are those in the files: make notebooks
html_theme = "furo"
html_title = "VirFluoNet"
html_show_sphinx = False
html_copy_source = False
html_css_files = ["wide.css"]
html_static_path = ["static"]
nb_ipywidgets_js: dict[
    str, dict[str, str]
] = {}  # none is used; by default they come from the network
