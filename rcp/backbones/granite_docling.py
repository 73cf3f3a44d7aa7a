"""Granite-Docling: tiles between marker tokens, and their features added after the first layers."""

from rcp.backbones.deepstack import Deepstack


class GraniteDocling(Deepstack):
    model_types = ("granite_docling",)
    title = "Granite-Docling"
    limits = "each tile counts as an image: marker tokens between tiles are ordinary text"
