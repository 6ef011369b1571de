"""From a folder to fields: which file holds which channel of which field.

There are three ways, chosen by the `Layout`: a CSV manifest, a regular expression over the relative path, or
words of the path (the default, which needs no configuration).
"""

from vfn.data.discovery.explicit import check_root
from vfn.data.discovery.fields import Field, FilePlane, ImageSource, NothingMatches, Time, left_out
from vfn.data.discovery.layout import Layout, Words, check_channels, check_z, is_number, split_plane
from vfn.data.discovery.search import discover, whole_field, whole_images
from vfn.data.discovery.tokens import split_token

__all__ = [
    "Field",
    "FilePlane",
    "ImageSource",
    "Layout",
    "NothingMatches",
    "Time",
    "Words",
    "check_channels",
    "check_root",
    "check_z",
    "discover",
    "is_number",
    "left_out",
    "split_plane",
    "split_token",
    "whole_field",
    "whole_images",
]
