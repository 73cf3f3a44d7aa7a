"""Plug-ins served by vLLM, against transformers with the same plug-in attached."""
