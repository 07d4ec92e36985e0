"""Conversion: which sites a model has, what a policy assigns to each, and the model that results."""
