"""The exported folder: written, read back, and refused where it is damaged."""
