"""Recommenders: whether a user clicks, from logs of categorical and numeric fields."""
