"""Results as rows, as tables, and as the sentences beneath them."""
