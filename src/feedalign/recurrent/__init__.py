"""Recurrent layers whose steps learn in parallel: the signal of every step is known at once."""
