"""Drift: how far the current rows have moved from a baseline, and whether that is worth waking somebody."""
