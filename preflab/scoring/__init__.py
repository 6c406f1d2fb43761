"""Log-probabilities: the prompt once, k responses on top of it."""
