"""Retrievers in training: each holds a stock sentence-transformers model in a field and is saved as one."""
