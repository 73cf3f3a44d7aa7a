"""The frozen model: loaded, recognised and measured."""
