"""Profiles: what one pass over the rows keeps of them."""
