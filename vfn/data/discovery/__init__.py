"""From a folder to fields: which file holds which channel of which field.

There are three ways, chosen by the `Layout`: a CSV manifest, a regular expression over the relative path, or
words of the path (the default, which needs no configuration).
"""
