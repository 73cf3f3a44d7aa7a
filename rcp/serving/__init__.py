"""Plug-ins in serving engines, a folder each; none of them is imported before it is asked for."""
