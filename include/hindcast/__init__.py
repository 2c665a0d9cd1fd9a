"""Hindcast looks back at what a model did in the last hour."""

__version__ = "0.1.0"
