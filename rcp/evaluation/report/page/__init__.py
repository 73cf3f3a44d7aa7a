"""Evaluations as one web page that asks nothing of any network."""
