"""Fusion-in-Decoder: the reader of FiD-KD, its training and its cross-attention label."""
