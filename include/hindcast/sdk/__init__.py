"""What a serving process imports: a logger of predictions that costs it about a microsecond each."""

from hindcast.sdk.logger import PredictionLogger
from hindcast.sdk.pipeline import NotDurable

__all__ = ["NotDurable", "PredictionLogger"]
