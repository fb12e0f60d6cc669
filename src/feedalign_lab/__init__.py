"""Experiments with feedalign: data sets, networks, training, comparisons and the `feedalign` command."""
