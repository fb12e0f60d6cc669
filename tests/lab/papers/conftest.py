"""Puts `made_papers` within reach of the tests in this folder and below."""
