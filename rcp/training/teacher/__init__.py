"""What the frozen model says of the training data: computed once, and kept."""
