"""The model `rcp` of lmms-eval: published benchmarks, answered with or without a plug-in.

Only `adapter.py` and `manifest.py` know lmms-eval, which imports them; nothing else of the package
does.
"""
