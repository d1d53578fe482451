"""Search over the corpus: BM25 over words, exact and approximate inner products over vectors. Encoding is not here."""
