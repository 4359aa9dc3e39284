"""Training a stack of models as one program."""
