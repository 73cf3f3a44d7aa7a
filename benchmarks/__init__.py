"""What is measured side by side, and the commands that measured it."""
