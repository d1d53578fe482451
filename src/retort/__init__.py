"""Retort distils what readers and rankers know into text retrievers, without passage labels."""

__version__ = "0.1.0"
