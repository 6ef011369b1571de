"""Reports: tables, figures, self-contained pages, tables for the terminal."""
