"""Scenes: views of a place that were never photographed, from a network that says what is where in it."""
