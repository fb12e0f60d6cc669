"""Rules on architectures, timed in turns with backprop, beside the limit that their operations set."""
