"""Questions about a model or a plug-in, one file each."""
