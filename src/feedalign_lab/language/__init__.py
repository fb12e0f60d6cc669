"""Language modelling: text, tokens, Transformers and their training."""
