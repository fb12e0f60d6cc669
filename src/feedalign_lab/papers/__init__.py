"""The settings of each paper, a module per paper or pair of papers, as printed there."""
