"""Encoding a whole batch in the memory of one chunk: gradient caching (GradCache, Gao et al. 2021, arXiv 2101.06983).

The texts are encoded in chunks of about one length, keeping the vectors and nothing in between. When the loss is
backpropagated, each chunk is encoded once more, with the random state it had, and its vectors' gradient flows through.
The result is that of plain backpropagation; the price is one more forward pass, the gain that K = 100 fits where K = 4 fits.
torch's activation checkpointing around each chunk does exactly this.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retort.tensors import Batch, Encoded, Student, Tokens, suited


def encode_batch(student: Student, batch: Batch, chunk_tokens: int, *, caching: bool = True) -> tuple[Encoded, Encoded]:
    """The encodings of the queries and of the distinct passages; no more than `chunk_tokens` padded tokens at once.

    Where each side fits `chunk_tokens`, or without `caching`, nothing is encoded twice.
    """
    sides = student.tokenise(batch.queries, "query"), student.tokenise(batch.passages, "passage")
    cached = caching and not all(side.fits(chunk_tokens) for side in sides)
    most = suited(chunk_tokens, next(student.module.parameters()).device)
    encoded = []
    for side in sides:
        rows, parts = zip(*side.buckets(most), strict=True)
        vectors = [_cached(student, part) if cached else student.encode(part) for part in parts]
        encoded.append(Encoded.joined(vectors, rows))
    return encoded[0], encoded[1]


def _cached(student: Student, part: Tokens) -> Encoded:
    """The encodings of a chunk, encoded again when their gradient is there.

    The tensors are an argument, on the device of the model, so that torch restores that device's random state too.
    """
    part = part.to(next(student.module.parameters()).device)

    def encode(tensors: Mapping[str, Tensor]) -> Encoded:
        return student.encode(replace(part, tensors=tensors))

    return checkpoint(encode, part.tensors, use_reentrant=False)  # type: ignore[return-value]
