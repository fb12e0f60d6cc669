"""The validator: what a rule would make of a model, told before any training."""
