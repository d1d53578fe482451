"""BM25 over title and text (Robertson and Zaragoza 2009, in Lucene's variant), through bm25s and PyStemmer.

Here are the words, the ties and the files; sums over a query's words are bm25s's own, and so are the files. Words are
numbered in order of appearance, so the same corpus gives the same bytes (bm25s would number them in the order of a hashed
set). The weights come from bm25_weights.py, because bm25s holds 24 bytes a word while it builds.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from bm25s import stopwords as word_lists
from jaxtyping import Float32, Int32

from retort.indexes.bm25_weights import word_weights
from retort.records import Passage, Query, Run
from retort.store import read_json, write_json

SETTINGS_FILE = "settings.json"
STOP_WORDS = {
    "da": word_lists.STOPWORDS_DANISH,
    "de": word_lists.STOPWORDS_GERMAN,
    "en": word_lists.STOPWORDS_EN,  # Lucene's 33 words
    "es": word_lists.STOPWORDS_SPANISH,
    "fr": word_lists.STOPWORDS_FRENCH,
    "it": word_lists.STOPWORDS_ITALIAN,
    "nl": word_lists.STOPWORDS_DUTCH,
    "no": word_lists.STOPWORDS_NORWEGIAN,
    "pt": word_lists.STOPWORDS_PORTUGUESE,
    "ru": word_lists.STOPWORDS_RUSSIAN,
    "sv": word_lists.STOPWORDS_SWEDISH,
    "tr": word_lists.STOPWORDS_TURKISH,
}
_WORD = re.compile(r"\b\w\w+\b")  # two letters or digits at least, as in scikit-learn and bm25s


@dataclass(frozen=True, kw_only=True)
class BM25Settings:
    """How words are cut and weighed. k1 and b default to Anserini's values, which the open-domain QA papers report.

    `stemmer` is a PyStemmer language or None; `stopwords` a language of STOP_WORDS, a list of words, or None.
    ValueError: an unknown language, k1 below 0, b outside 0..1.
    """

    k1: float = 0.9
    b: float = 0.4
    stemmer: str | None = "english"
    stopwords: str | Sequence[str] | None = "en"

    def __post_init__(self) -> None:
        if self.stemmer is not None and self.stemmer not in Stemmer.algorithms():
            raise ValueError(f"stemmer is {self.stemmer!r}, expected None or one of {', '.join(Stemmer.algorithms())}")
        if isinstance(self.stopwords, str) and self.stopwords not in STOP_WORDS:
            raise ValueError(
                f"stopwords is {self.stopwords!r}, expected None, a list of words, or one of {', '.join(STOP_WORDS)}"
            )
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"k1 is {self.k1} and b is {self.b}, expected k1 >= 0 and 0 <= b <= 1 (usual: 0.9, 0.4)")
        if self.stopwords is not None and not isinstance(self.stopwords, str):
            object.__setattr__(self, "stopwords", tuple(word.lower() for word in self.stopwords))


class Words:
    """The words of a text that count: lower case, at least two signs, no stop words, stemmed.

    >>> Words(BM25Settings()).of("The Queen was weeping; she wept in 1812.")
    ['queen', 'weep', 'she', 'wept', '1812']
    """

    def __init__(self, settings: BM25Settings) -> None:
        self._stems = _Stems(settings)

    def of(self, text: str) -> list[str]:
        """The words in the order of the text, repeated as often as they stand there."""
        return [stem for stem in map(self._stems.__getitem__, _WORD.findall(text.lower())) if stem]


class _Stems(dict[str, str]):
    """The stem of each word, "" of a stop word: found once, when it is first asked for."""

    def __init__(self, settings: BM25Settings) -> None:
        listed = settings.stopwords
        self._stop = frozenset(STOP_WORDS[listed] if isinstance(listed, str) else listed or ())
        self._stem = Stemmer.Stemmer(settings.stemmer).stemWord if settings.stemmer else str

    def __missing__(self, word: str) -> str:
        self[word] = "" if word in self._stop else self._stem(word)
        return self[word]


class BM25Index:
    """A searchable corpus of words; a Retriever. `build` makes one, `load` opens one that `save` wrote.

    >>> index = BM25Index.build([Passage("a", "Snow", "Cold and white."), Passage("b", "", "Water is wet.")])
    >>> index.search([Query("q1", "white snow"), Query("q2", "the moon")], 5, name="bm25").passages.tolist()
    [0]
    """

    def __init__(self, weights: bm25s.BM25, settings: BM25Settings) -> None:
        self.settings = settings
        self._weights = weights
        self._words = Words(settings)

    @classmethod
    def build(
        cls, corpus: Iterable[Passage], *, settings: BM25Settings | None = None, scratch: Path | None = None
    ) -> "BM25Index":
        """The index of every passage's title and text. ValueError where no passage holds a word.

        What grows with the corpus stands in temporary files in `scratch` until it is saved, 20 bytes for each distinct
        word of a passage; None: where the system has its temporary files, which may be in memory.
        """
        settings = settings or BM25Settings()
        words, numbers = Words(settings), defaultdict[str, int]()
        numbers.default_factory = numbers.__len__
        passages = ([*map(numbers.__getitem__, words.of(f"{passage.title} {passage.text}"))] for passage in corpus)
        try:
            found = word_weights(passages, k1=settings.k1, b=settings.b, scratch=scratch)
        except ValueError as error:
            if numbers:  # there are words, so it is the corpus that cannot be read
                raise
            raise ValueError(
                f"{error} to index with stopwords={settings.stopwords!r}: give a corpus with text, or other stop words"
            ) from error
        weights = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
        weights.scores = {
            "data": found.weights, "indices": found.rows, "indptr": found.starts, "num_docs": found.passages
        }  # fmt: skip
        weights.vocab_dict, weights.nonoccurrence_array = dict(numbers), None  # Lucene's variant has none
        return cls(weights, settings)

    def save(self, folder: Path) -> None:
        """Writes the files of the index into `folder`, the settings last; `load` reads them."""
        (folder / SETTINGS_FILE).unlink(missing_ok=True)
        self._weights.save(folder, show_progress=False)
        write_json(folder / SETTINGS_FILE, asdict(self.settings))

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = True) -> "BM25Index":
        """The index that `save` put into `folder`; with `mmap` its weights stay on disk until a query needs them."""
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no BM25 index: expected {SETTINGS_FILE} there; BM25Index.save writes it")
        return cls(bm25s.BM25.load(folder, mmap=mmap, show_progress=False), BM25Settings(**read_json(path)))

    def __len__(self) -> int:
        return self._weights.scores["num_docs"]

    def search(self, queries: Sequence[Query], k: int, *, name: str) -> Run:
        """The best `k` passages of each query as a Run; only passages that share a word with the query, so maybe fewer.

        Equal scores stand in corpus order, also where `k` cuts between them. A query whose words are all unknown has
        no passage. A word that stands twice in a query counts twice. One thread: more gained nothing when measured.
        """
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1: k is the number of passages to return for a query")
        hits = [self._best(query.text, k) for query in queries]
        return Run.build(name, [query.id for query in queries], [rows for rows, _ in hits], [best for _, best in hits])

    def _best(self, text: str, k: int) -> tuple[Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
        """Rows and scores, best first. bm25s's own top k would take any of the passages that tie at the border."""
        known = self._weights.get_tokens_ids(self._words.of(text))
        if not known:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        scores = self._weights.get_scores_from_ids(known)
        border = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        rows = np.flatnonzero(scores >= border if border > 0 else scores > 0).astype(np.int32)
        rows = rows[np.argsort(-scores[rows], kind="stable")][:k]
        return rows, scores[rows]
