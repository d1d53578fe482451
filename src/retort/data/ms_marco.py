"""MS MARCO's own files beside collection, queries and qrels: rankings, top 1000 with texts, and triples of ids.

None has a header. A ranking and a file of triples both hold three numbers a line; only ranks count up from 1.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from retort.data.rows import Row, read_lines

NUMBERS = r"\d+\t\d+\t\d+\s*"
TOP, TOP_COLUMNS = r"\d+\t\d+\t[^\t]+\t[^\t]+", ("query-id", "corpus-id", "query", "passage")  # top1000.dev.tsv
RANKING_COLUMNS = ("query-id", "corpus-id", "rank")
TRIPLE_COLUMNS = ("query-id", "corpus-id", "negative-id")


def counts_up(lines: Sequence[str]) -> bool:
    r"""Whether the third fields are ranks: each is 1, or one more than in the line before it, of the same query.

    >>> counts_up(["7\t31\t1", "7\t12\t2", "9\t31\t1"]), counts_up(["7\t31\t1", "7\t31\t44"])
    (True, False)
    """
    fields = [line.split("\t") for line in lines]
    places = [(query, int(rank)) for query, _, rank in fields]
    earlier = [("", 0), *places]
    return all(rank == 1 or before == (query, rank - 1) for before, (query, rank) in zip(earlier, places, strict=False))


def triple_rows(path: Path) -> Iterator[Row]:
    """The positives of a file of triples as grades of 1; lines in a row that share a query and positive are given once.

    The negatives are left: a sample of the first 1,000 of BM25 that does not say where they rank.
    """
    last: list[str] = []
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != len(TRIPLE_COLUMNS):
            wanted = f"{len(TRIPLE_COLUMNS)} ({', '.join(TRIPLE_COLUMNS)})"
            raise ValueError(f"{path}:{number}: {len(fields)} fields, expected {wanted}: correct the line")
        if fields[:2] != last:
            last = fields[:2]
            yield Row({"query-id": last[0], "corpus-id": last[1], "grade": "1"}, f"{path}:{number}")
