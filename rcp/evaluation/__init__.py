"""Accuracy and cost of plug-ins beside their controls, with the tokens really gone."""
