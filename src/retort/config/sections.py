"""The settings of a run: one frozen section for each stage, read from YAML, every default visible.

A default is the published value (paper or released recipe, as cited) or says why it is not. Unknown keys and wrong types are
refused with the nearest name. A knob belongs here, never on the command line alone.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, Strict

from retort.config.budget import Budget
from retort.config.fields import Section
from retort.config.teachers import Label, Read
from retort.config.training import Distil

Split = Literal["train", "dev", "test"]


class Prepare(Section):
    """Where the corpus, the questions and the evaluation grades are. `qrels` never holds grades of the train split."""

    corpus: str  # a file or folder, its format found by its content
    queries: dict[
        Split, str
    ]  # questions and answers, of train and dev at least; lines of a file for several say their `split`
    qrels: dict[
        Literal["dev", "test"], str
    ] = {}  # grades for evaluation; of dev also what is positive, where distil.positives is qrels
    positives: str | None = None  # grades of train questions, read where distil.positives is qrels
    # dev and test questions without grades, beside others that have some: drop leaves them out (TREC DL judges 43 of 200)
    ungraded: Literal["refuse", "drop"] = "refuse"
    # a run or FiD file that stands for round 0's search, or one for each split: `file` in retrieve.first
    candidates: str | dict[Split, str] | None = None
    words: PositiveInt = 100  # of a passage that is cut from prose
    limit: dict[Split, PositiveInt | None] = {}  # questions kept of a split, chosen by a hash of their id; null: all


class Bm25(Section):
    """Okapi BM25 as Lucene scores it; k1 and b as Anserini tunes them for passages."""

    k1: PositiveFloat = 0.9
    b: float = Field(default=0.4, ge=0, le=1)
    stemmer: str | None = "english"  # of PyStemmer; null: none
    stopwords: str | list[str] | None = "en"  # of bm25s, or a list; null: none


class Retrieve(Section):
    """What finds candidates: before round 1 (`first`), and for the rounds after it (`later`)."""

    depth: PositiveInt = 100  # passages that each search finds, and candidates kept of all together (FiD-KD)
    # file: prepare.candidates. Several are joined
    first: list[Literal["bm25", "student", "file"]] = Field(default=["bm25"], min_length=1)
    # without the student among them, what it finds is left out
    later: list[Literal["bm25", "student"]] = Field(default=["student"], min_length=1)
    bm25: Bm25 = Bm25()


class Encode(Section):
    """The pass over the corpus, and what a round does instead of it (Atlas, arXiv 2208.03299, section 2.4)."""

    passages_per_part: PositiveInt = 50_000  # what a kill loses at most
    batch_tokens: PositiveInt = 16_384  # padded tokens encoded at once; on a CPU 1,024 at most
    # after a round's training: full encodes the corpus anew; rerank keeps the vectors of the round before, and ranks the
    # first `rerank_depth` passages that they find by fresh ones; auto is full where those vectors are stale, else rerank
    refresh: Literal["full", "rerank", "auto"] = "full"
    rerank_depth: PositiveInt | None = None  # L; None: twice retrieve.depth, so that fresh scores have something to choose
    # stale: on `probe_questions` of dev, less than this share of the first `probe_depth` stays there once the first L are
    # ranked by fresh vectors. No value is published: with 0.8 two of ten places have another passage. Above 1: always
    stale_below: float = Field(default=0.8, ge=0)
    probe_questions: PositiveInt = 100
    probe_depth: PositiveInt = 10  # K


class Index(Section):
    """The student's index: exact by default, so that no noise of approximation enters training and evaluation."""

    # hnsw, ivf: of dense students, and of the encodings of late interaction; seismic: of sparse ones
    kind: Literal["flat", "hnsw", "ivf", "seismic"] = "flat"
    hnsw_links: PositiveInt = 32  # of a passage
    hnsw_search: PositiveInt = 128  # passages looked at for a query: more find more, slower
    ivf_lists: PositiveInt | None = None  # None: four times the square root of the passages
    ivf_probes: PositiveInt | None = None  # lists looked at for a query; None: an eighth of them
    seismic_terms: PositiveInt = 30  # the heaviest weights of a query that lists are looked up for
    seismic_heap: float = Field(default=0.7, gt=0, le=1)  # lower looks at more blocks
    # late interaction: up to so many passages every one gets its MaxSim; above, the first `candidates` by encodings of a
    # fixed dimension (MUVERA, arXiv 2405.19504)
    exact_up_to: PositiveInt = 50_000
    candidates: PositiveInt = 1000  # of the encodings, whose MaxSim is computed
    encoding_repetitions: PositiveInt = 20  # independent encodings, joined
    encoding_planes: PositiveInt = 4  # 2 to the power of this are the buckets of an encoding
    encoding_projected: PositiveInt | None = 8  # dimensions of a bucket; None: those of a token


class Evaluate(Section):
    """What is measured, and how sure it is."""

    # as ir-measures names them; where there are grades
    measures: list[str] = ["nDCG@10", "RR@10", "R@1", "R@5", "R@20", "R@100"]
    answers_at: list[PositiveInt] = [1, 5, 20, 100]  # k of has_answer@k
    samples: PositiveInt = 10_000  # of the bootstrap and the randomisation test
    headline: str | None = None  # the measure that decides; None: nDCG@10 with grades, else has_answer@20


class Reporting(Section):
    """How much of the evidence the report shows."""

    examples: PositiveInt = 20  # wins, and as many losses, with their passages; 20 of each at most
    maps: int = Field(default=5, ge=0, le=20)  # of where the reader looked; the label stage keeps 20


class Compute(Section):
    """Where and in which precision to work. Not part of any key: a run may go on with other hardware."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware computes it
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = []  # beside log.jsonl, which is always written


class Config(Section):
    """A whole run. `overrides` changes sections from a round on: {2: {"distil": {"steps": 100}}}."""

    seed: NonNegativeInt = 0  # of training, draws, tests and indexes; not of a judge's orders, new heads and Seismic
    rounds: PositiveInt = 2
    prepare: Prepare
    retrieve: Retrieve = Retrieve()
    read: Read = Read()
    label: Label = Label()
    distil: Distil = Distil()
    encode: Encode = Encode()
    index: Index = Index()
    evaluate: Evaluate = Evaluate()
    report: Reporting = Reporting()
    compute: Compute = Compute()
    budget: Budget | None = None  # chooses label.depth and keeps the precision with it (retort/budget.py); None: as given
    overrides: dict[Annotated[PositiveInt, Strict(False)], dict[str, dict[str, Any]]] = {}  # JSON keys are strings

    def of_round(self, number: int) -> "Config":
        """The settings of one round: the overrides of this and of all earlier rounds applied in order."""
        values = self.model_dump(exclude={"overrides"})
        for since in sorted(self.overrides):
            if since <= number:
                values = merged(values, self.overrides[since])
        return Config.model_validate(values)


def merged(values: Mapping[Any, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    """`values` with `changes` laid over them, section by section (and round by round); neither argument is changed.

    >>> merged({"distil": {"steps": 5, "batch": 2}}, {"distil": {"steps": 7}})
    {'distil': {'steps': 7, 'batch': 2}}
    """
    result = dict(values)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result
