"""Encoding a whole batch in the memory of one chunk: gradient caching (GradCache, Gao et al. 2021, arXiv 2101.06983).

The texts are encoded in chunks of about one length, keeping the vectors and nothing in between. When the loss is
backpropagated, each chunk is encoded once more, with the random state it had, and its vectors' gradient flows through.
The result is that of plain backpropagation; the price is one more forward pass, the gain that K = 100 fits where K = 4 fits.
torch's activation checkpointing around each chunk does exactly this.
"""

from collections.abc import Mapping
from dataclasses import replace

from accelerate import Accelerator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retort.compute import mine, of_all
from retort.tensors import Batch, Encoded, Student, Tokens, suited


def encode_batch(
    student: Student, batch: Batch, chunk_tokens: int, *, caching: bool = True, accelerator: Accelerator | None = None
) -> tuple[Encoded, Encoded]:
    """The encodings of the queries and of the distinct passages; no more than `chunk_tokens` padded tokens at once.

    The batch is the same in all processes of `accelerator`: each encodes its share of the texts, and gets all encodings.
    Where each side fits `chunk_tokens`, or without `caching`, nothing is encoded twice.
    """
    shares = mine(len(batch.queries), accelerator), mine(len(batch.passages), accelerator)
    queries, passages = [batch.queries[i] for i in shares[0].tolist()], [batch.passages[i] for i in shares[1].tolist()]
    sides = student.tokenise(queries, "query"), student.tokenise(passages, "passage")
    cached = caching and not all(side.fits(chunk_tokens) for side in sides)
    most = suited(chunk_tokens, next(student.module.parameters()).device)
    encoded = []
    for side, texts in zip(sides, (batch.queries, batch.passages), strict=True):
        rows, parts = zip(*side.buckets(most), strict=True)
        vectors = [_cached(student, part) if cached else student.encode(part) for part in parts]
        encoded.append(_of_all(Encoded.joined(vectors, rows), len(texts), accelerator))
    return encoded[0], encoded[1]


def _of_all(encoded: Encoded, texts: int, accelerator: Accelerator | None) -> Encoded:
    """The encodings of all texts from those that each process made."""
    vectors = of_all(encoded.vectors, texts, accelerator)
    if encoded.mask is None:
        return Encoded(vectors)
    return Encoded(vectors, of_all(encoded.mask.float(), texts, accelerator).bool())


def _cached(student: Student, part: Tokens) -> Encoded:
    """The encodings of a chunk, encoded again when their gradient is there.

    The tensors are an argument, on the device of the model, so that torch restores that device's random state too.
    """
    part = part.to(next(student.module.parameters()).device)

    def encode(tensors: Mapping[str, Tensor]) -> Encoded:
        return student.encode(replace(part, tensors=tensors))

    return checkpoint(encode, part.tensors, use_reentrant=False)  # type: ignore[return-value]
