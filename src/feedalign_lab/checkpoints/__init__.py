"""Training that is cut at any moment and goes on bit for bit: what is saved, when, and what is believed of it."""
