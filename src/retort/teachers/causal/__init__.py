"""Causal language models as teachers: how likely a passage makes the answer or the question, and where they look."""
