"""The model card of a distilled student: where it comes from, on what it was trained, how good it is, and what that cost.

Cost is counted work (steps, texts, questions), never seconds: the bytes of a model folder must not depend on the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retort.config import StudentModel
from retort.store import write_atomic
from retort.students.stock import chosen_scale
from retort.students.texts import passage_prompt


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card states. `data`, `metrics` and `cost` are rows of a table, in their order."""

    student: StudentModel
    round: int
    teacher: str
    objectives: str
    data: Mapping[str, str | int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, str | int] = field(default_factory=dict)


def write_model_card(folder: Path, facts: CardFacts) -> None:
    """README.md in `folder`: lineage, data, metrics, cost, and the lines that load and use the model."""
    student = facts.student
    towers = "one encoder for both sides" if student.towers == "tied" else "an encoder for each side"
    if student.inference_free:
        towers = "an encoder for passages; queries have a learned weight for each token"
    scale = chosen_scale(student)
    divisor = "the square root of the dimension" if scale == "sqrt_dim" else f"{scale:g}"
    compared = "MaxSim" if student.kind == "late_interaction" else COMPARED[student.score]
    lineage = {
        "Base model": f"`{student.model}`" + (f" (sha256 `{student.sha256}`)" if student.sha256 else ""),
        "Teacher": facts.teacher,
        "Round": str(facts.round),
        "Objectives": facts.objectives,
        "Encoder": towers,
        "Score in training": f"{compared} divided by {divisor}",
        "Lengths": f"{student.query_tokens} tokens a query, {student.passage_tokens} tokens a passage",
    }
    sections = [
        _header(student),
        "# A retriever distilled with Retort\n\nTrained from the scores of a teacher, without passage labels.\n",
        _table("Lineage", lineage),
        _table("Data", facts.data),
        _table("Metrics", {name: f"{value:.4f}" for name, value in facts.metrics.items()}),
        _table("Cost", facts.cost),
        _usage(student),
    ]
    with write_atomic(folder / "README.md") as path:
        path.write_text("\n".join(section for section in sections if section))


COMPARED = {"dot": "inner product", "cosine": "cosine"}
CLASSES = {"dense": "SentenceTransformer", "sparse": "SparseEncoder", "late_interaction": "MultiVectorEncoder"}
TAGS = {"dense": "sentence-similarity", "sparse": "sparse-encoder, splade", "late_interaction": "multi-vector, colbert"}


def _header(student: StudentModel) -> str:
    """What the hub reads, in sentence-transformers' own words for the kind of model."""
    pipeline = "sentence-similarity" if student.kind == "dense" else "feature-extraction"
    return (
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: {pipeline}\n"
        f"tags: [sentence-transformers, {TAGS[student.kind]}, retrieval, distillation, retort]\n---\n"
    )


def _table(title: str, rows: Mapping[str, str | int]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _usage(student: StudentModel) -> str:
    """The two lines that load the model, and what to pass: the query's prefix is a prompt of the model, titles are not."""
    name, wanted = CLASSES[student.kind], passage_prompt(student.passage_format)[1]
    passage = f'"{wanted}".format(title=title, text=text)' if wanted != "{text}" else "text"
    return (
        f"## Use\n\n```python\nfrom sentence_transformers import {name}\n"
        f'model = {name}("path/of/this/folder")\n'
        f"scores = model.similarity(model.encode_query([question]), model.encode_document([{passage}]))\n```\n\n"
        "Where a passage has no title, leave out the words that introduce it.\n"
    )
