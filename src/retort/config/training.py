"""The settings of the student's training: what the gap costs, which candidates are drawn, and for how long."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from retort.config.fields import Optimiser, Section
from retort.config.students import StudentModel

ObjectiveName = Literal[
    "kl", "reverse_kl", "jensen_shannon", "emdr2", "ckl", "bkl", "cross_entropy", "list_mle", "lambda_loss", "approx_ndcg",
    "cl_drd", "ranknet", "margin_mse", "mse", "max_margin", "info_nce", "candidate_mass", "flops", "l1",
]  # fmt: skip


class ObjectiveSettings(Section):
    """An objective of retort.losses by name, its weight, and its settings; None stands for the objective's own default.

    Temperatures are 1 by default, and refused where an objective has none.
    """

    name: ObjectiveName = "kl"
    coefficient: PositiveFloat = 1.0  # its weight in the sum of objectives
    warmup_steps: PositiveInt | None = None  # the coefficient grows with the square of the step until then (SPLADE)
    student_temperature: PositiveFloat | None = None  # the student's scores are divided by it
    teacher_temperature: PositiveFloat | None = None  # the teacher's are
    margin: NonNegativeFloat | None = None  # max_margin; None: 0
    gamma: NonNegativeFloat | None = None  # ckl: the exponent of its weights; None: 5
    alpha: NonNegativeFloat | None = None  # ckl: what a rank weighs; None: 0
    detach_weights: bool | None = None  # ckl: weights without a gradient; None: false
    bias_positives: bool | None = None  # ckl: ranks bias positives too; None: false
    lam: NonNegativeFloat | None = None  # bkl: weight of the penalty; None: 0.02
    labels: Literal["soft", "hard"] | None = None  # cross_entropy; None: soft
    scheme: Literal["ndcg_loss2pp", "lambda_rank"] | None = None  # lambda_loss; None: ndcg_loss2pp
    mu: NonNegativeFloat | None = None  # ndcg_loss2pp: weight of its second term; None: 10
    pairs: Literal["positive", "all"] | None = (
        None  # margin_mse: each positive with the others, or all pairs; None: positive
    )
    heads: list[PositiveInt] | None = None  # cl_drd: how many count as the head, stage by stage; None: [10]
    tail: PositiveInt | None = None  # cl_drd: ranks beyond it count least; None: 20
    stage_steps: PositiveInt | None = None  # cl_drd: steps of a stage; None: 1
    side: Literal["query", "passage"] | None = None  # flops, l1; None: passage
    threshold: PositiveInt | None = None  # flops: texts of so few entries cost nothing


class Negatives(Section):
    """Which labelled candidates may be negatives, where an objective reads positives; the others are not drawn."""

    # in whose ranking `window` counts: the student's of the round before, BM25's, or that of prepare.candidates
    system: Literal["student", "bm25", "file"] = "student"
    window: PositiveInt | None = None  # only the first so many of that ranking (CKL: 20 of the student's)
    # a negative that the teacher puts above the best positive's score minus this may be an unmarked positive
    teacher_margin: float | None = None


class Distil(Section):
    """The student's training on the labels."""

    student: StudentModel = StudentModel()
    objectives: list[ObjectiveSettings] = Field(default=[ObjectiveSettings()], min_length=1)
    candidates: int = Field(
        default=100, ge=2
    )  # K: labelled candidates of a question that a step draws; where it has fewer, all
    # spread: the labelled best, and the rest at random; positive: one positive, and negatives at random; stratified: one
    # of each equal share of the teacher's probability mass
    sample: Literal["top", "random", "spread", "positive", "stratified"] = "random"
    # what is a positive, where an objective asks: a candidate whose text holds an answer, one of prepare.positives, or what
    # the file of a `run` teacher calls positive (FlagEmbedding, SimLM, Tevatron and others do)
    positives: Literal["answers", "qrels", "scores"] = "answers"
    negatives: Negatives = Negatives()
    ranks_every: PositiveInt | None = None  # steps between rankings by the current student; None: its search before training
    audit: Literal["warn", "refuse"] = "warn"  # what follows where the audit of the labels says "do not train"
    batch: PositiveInt = 64  # questions of a step
    # which questions share a batch: any, or those whose best passages are alike, which are hard in-batch negatives
    # (TAS-Balanced, arXiv 2104.06967); dense students
    batches: Literal["random", "topics"] = "random"
    topics: PositiveInt | None = None  # how many; None: six batches each
    steps: PositiveInt = 20_000
    optimiser: Optimiser = Optimiser()
    chunk_tokens: PositiveInt = 16_384  # padded tokens encoded at once, on a CPU 1,024 at most: bounds memory, not the batch
    # false: every chunk's activations are kept, not computed again: a quarter less work, memory grows with the batch
    gradient_caching: bool = True
    evaluate_every: PositiveInt = 500  # steps
    checkpoint_every: PositiveInt = 500  # steps that a kill loses at most
    patience: PositiveInt | None = None  # evaluations without a better dev value before training stops
    # what the best step is chosen by, on the dev questions: agreement with their labels, or has_answer@k in a search over
    # all their candidates together; no grades, but those that say what a positive is
    selection: str = Field(default="labels", pattern=r"^(labels|has_answer@[1-9]\d*)$")
    later_rounds: Literal["restart", "continue"] = "restart"  # from the model above, or from the student of the round before
