"""Results tables and the stores that keep them."""
