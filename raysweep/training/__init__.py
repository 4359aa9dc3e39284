"""Training a stack of models as one program: streams of random numbers, optimisers, the loop."""
