"""How fast the exact searches are, against the exact path of a peer, with the same results; and HNSW against exact search.

Everything is drawn from seed 0, because no time depends on what vectors mean, and recall only on how they lie:

- dense: passages of 384 dimensions whose variance falls as a power of the dimension's rank, as that of sentence embeddings
  does, of length 1 and in half precision; a query is a passage moved by a fifth of its length. Peer: faiss `IndexFlatIP`
  (BLAS) over the same values in float32.
- sparse: 120 weights a passage and 30 a query, on columns of BERT's vocabulary by Zipf's law. Peer: sentence-transformers'
  `semantic_search` over sparse tensors.
- late interaction: 30 to 180 vectors a passage, 32 a query. Peer: sentence-transformers' `maxsim` and torch's `topk`.

    python benchmarks/search_speed.py [--only dense sparse late_interaction] [--scale 1] [--repeats 5]
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float32
from rows import print_line
from scipy.sparse import csr_array
from sentence_transformers.util import dot_score, maxsim, semantic_search
from speed import Target, options, ratios, seconds_of, timed

from retort.indexes.best import recall
from retort.indexes.dense import DenseIndex
from retort.indexes.inverted import InvertedIndex
from retort.indexes.multi_vector import MultiVectorIndex
from retort.indexes.sparse_vectors import SparseParts, shape_of
from retort.indexes.token_vectors import TokenParts
from retort.indexes.vectors import VectorParts
from retort.tensors import TokenVectors

K = 100
DECAY = 0.6  # of a dimension's deviation with its rank
VOCABULARY = 30_522
Results = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]  # scores and rows of each query
SHARED = 0.999  # of the first 100, at least: but for ties


def main(argv: Sequence[str]) -> None:
    arguments = _options().parse_args(argv)
    for name in arguments.only:
        facts = SEARCHES[name](arguments.scale, arguments.repeats)
        print_line("search_speed", {"search": name, "k": K, **facts}, argv=argv)


def dense(scale: float, repeats: int) -> dict[str, Any]:
    """Exact search of 100,000 x 384 with 1,000 queries against faiss Flat, and HNSW against exact search."""
    rng = np.random.default_rng(0)
    vectors = VectorParts.of(embeddings(rng, round(100_000 * scale)))
    wide = vectors.parts[0].astype(np.float32)
    drawn = wide[rng.integers(len(wide), size=round(1000 * scale))]
    queries = (drawn + 0.2 * embeddings(rng, len(drawn))).astype(np.float32)
    exact, hnsw, flat = DenseIndex.build(vectors), DenseIndex.build(vectors, kind="hnsw"), faiss.IndexFlatIP(wide.shape[1])
    flat.add(wide)
    faiss.cvar.distance_compute_blas_threshold = 1  # else it compares 200 queries without BLAS, 7 times slower
    systems: dict[str, Callable[[], Any]] = {
        "ours": lambda: exact.search(queries, K),
        "faiss Flat": lambda: flat.search(queries, K),
        "HNSW": lambda: hnsw.search(queries, K),
    }
    found = {name: system() for name, system in systems.items()}
    times = timed(systems, repeats)
    ratio, quicker = ratios(times, "ours"), times["ours"].median / times["HNSW"].median
    targets = [
        Target("exact search", "faiss Flat with BLAS", at_least=1).found(ratio["faiss Flat"]),
        Target("exact search: results", "faiss Flat's", at_least=SHARED, unit="shared").found(
            recall(found["ours"][1], list(found["faiss Flat"][1]))
        ),
        Target("HNSW", "exact search", at_least=10).found(quicker),
        Target("HNSW: recall@100", "exact search", at_least=0.98, unit="recall").found(
            recall(found["ours"][1], found["HNSW"][1])
        ),
    ]
    return {"passages": len(wide), "queries": len(queries), **seconds_of(times), "ratio": ratio, "targets": targets}


def sparse(scale: float, repeats: int) -> dict[str, Any]:
    """Exact search of 50,000 sparse vectors with 200 queries, against semantic_search over sparse tensors."""
    rng = np.random.default_rng(0)
    parts = SparseParts.of(weights(rng, round(50_000 * scale), 120))
    passages, queries = parts.parts[0].take(np.arange(len(parts))), weights(rng, round(200 * scale), 30)
    index = InvertedIndex(*parts.shape, tuple(InvertedIndex.build(parts).postings))  # transposed before it is timed
    asked, held = as_tensor(queries), as_tensor(passages)

    def theirs() -> Results:
        listed = semantic_search(asked, held, top_k=K, score_function=dot_score)
        return ([np.array([hit["score"] for hit in hits]) for hits in listed],
                [np.array([hit["corpus_id"] for hit in hits]) for hits in listed])  # fmt: skip

    systems = {"ours": lambda: index.search(queries, K), "semantic_search": theirs}
    return _against("sparse exact search", systems, repeats, passages=len(parts), queries=shape_of(queries)[0])


def late_interaction(scale: float, repeats: int) -> dict[str, Any]:
    """Exact MaxSim of 5,000 passages with 64 queries of 32 tokens, against maxsim over tensors."""
    rng = np.random.default_rng(0)
    tokens = TokenParts.of(matrices(rng, rng.integers(30, 181, round(5000 * scale))))
    queries = matrices(rng, np.full(max(2, round(64 * scale)), 32))
    index = MultiVectorIndex.build(tokens)
    asked, held = (
        [torch.from_numpy(np.float32(one[text])) for text in range(len(one))] for one in (queries, tokens.parts[0])
    )

    def theirs() -> Results:
        best = torch.topk(maxsim(asked, held), min(K, len(tokens)))
        return list(best.values.numpy()), list(best.indices.numpy())

    systems = {"ours": lambda: index.search(queries, K), "maxsim": theirs}
    return _against("late-interaction exact search", systems, repeats, passages=len(tokens), queries=len(queries))


SEARCHES: Mapping[str, Callable[[float, int], dict[str, Any]]] = {
    "dense": dense,
    "sparse": sparse,
    "late_interaction": late_interaction,
}


def embeddings(rng: np.random.Generator, count: int, dimensions: int = 384) -> Float32[np.ndarray, "n D"]:
    """Vectors of length 1, the deviation of dimension i falling as i to the power -DECAY."""
    values = rng.standard_normal((count, dimensions), np.float32) * np.arange(1, dimensions + 1, dtype=np.float32) ** -DECAY
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def weights(rng: np.random.Generator, texts: int, entries: int) -> csr_array:
    """Sparse vectors of at most `entries` weights in 0..3; column c is drawn as often as 1 / (c + 10)."""
    chances = 1 / (np.arange(VOCABULARY) + 10)
    columns = rng.choice(VOCABULARY, texts * entries, p=chances / chances.sum())
    values, starts = rng.uniform(0, 3, texts * entries).astype(np.float32), np.arange(texts + 1) * entries
    drawn = csr_array((values, columns, starts), (texts, VOCABULARY))
    drawn.sum_duplicates()
    return drawn


def as_tensor(vectors: csr_array) -> torch.Tensor:
    """The same as a sparse tensor in coordinates, which is what sentence-transformers gives."""
    torch.sparse.check_sparse_tensor_invariants.disable()  # torch warns where it is not said whether it shall check
    places, values = torch.from_numpy(np.stack(vectors.nonzero())), torch.from_numpy(vectors.data)
    return torch.sparse_coo_tensor(places, values, shape_of(vectors)).coalesce()


def matrices(rng: np.random.Generator, lengths: np.ndarray, dimensions: int = 128) -> TokenVectors:
    """So many vectors of length 1 for each text."""
    values = rng.standard_normal((int(lengths.sum()), dimensions), np.float32)
    return TokenVectors(values / np.linalg.norm(values, axis=1, keepdims=True), np.concatenate([[0], np.cumsum(lengths)]))


def _against(what: str, systems: Mapping[str, Callable[[], Results]], repeats: int, **sizes: int) -> dict[str, Any]:
    """The facts of a line that holds our search, the first of `systems`, against a peer's."""
    ours, peer = systems
    found = {name: system() for name, system in systems.items()}
    differences = [
        np.abs(mine - other[: len(mine)]).max() for mine, other in zip(found[ours][0], found[peer][0], strict=True)
    ]
    times = timed(systems, repeats)
    ratio = ratios(times, ours)
    alike = Target(f"{what}: results", f"{peer}'s", at_least=SHARED, unit="shared")
    targets = [Target(what, peer, at_least=2).found(ratio[peer]), alike.found(recall(found[ours][1], found[peer][1]))]
    facts = {**sizes, "largest difference of scores": float(max(differences))}
    return {**facts, **seconds_of(times), "ratio": ratio, "targets": targets}


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="searches (default all)")
    parser.add_argument("--scale", type=float, default=1.0, help="of passages and queries (default 1: the stated sizes)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
