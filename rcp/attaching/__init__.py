"""The only room that touches a model: a plug-in put on it, and off again without a trace."""
