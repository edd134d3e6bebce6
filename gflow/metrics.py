"""Quantities of a model on data."""
