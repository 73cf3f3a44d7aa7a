"""What happens during one forward of a model with a plug-in attached, and its bookkeeping."""
