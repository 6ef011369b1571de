"""Control against treated cells, by a model of the control (paper, discussion: third application)."""
