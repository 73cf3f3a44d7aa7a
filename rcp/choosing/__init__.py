"""The choice of tokens: what is seen, what is kept, and what became of the rest; tensors only."""
