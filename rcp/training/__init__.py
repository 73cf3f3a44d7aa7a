"""Training of plug-ins; the only package that imports Lightning."""
