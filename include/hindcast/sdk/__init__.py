"""What a serving process imports: a logger of predictions that costs it about a microsecond each."""

from hindcast.errors import NotDurable
from hindcast.sdk.logger import PredictionLogger

__all__ = ["NotDurable", "PredictionLogger"]
