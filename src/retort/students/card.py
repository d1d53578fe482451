"""The model card of a distilled student: where it comes from, on what it was trained, how good it is, and what that cost.

Cost is counted work (steps, texts, questions), never seconds: the bytes of a model folder must not depend on the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retort.config import StudentModel
from retort.store import write_atomic
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
    scale = "the square root of the dimension" if student.scale == "sqrt_dim" else f"{student.scale:g}"
    lineage = {
        "Base model": f"`{student.model}`" + (f" (sha256 `{student.sha256}`)" if student.sha256 else ""),
        "Teacher": facts.teacher,
        "Round": str(facts.round),
        "Objectives": facts.objectives,
        "Encoder": towers,
        "Score in training": f"{'cosine' if student.score == 'cosine' else 'inner product'} divided by {scale}",
        "Lengths": f"{student.query_tokens} tokens a query, {student.passage_tokens} tokens a passage",
    }
    sections = [
        HEADER,
        "# A retriever distilled with Retort\n\nTrained from the scores of a teacher, without passage labels.\n",
        _table("Lineage", lineage),
        _table("Data", facts.data),
        _table("Metrics", {name: f"{value:.4f}" for name, value in facts.metrics.items()}),
        _table("Cost", facts.cost),
        _usage(student),
    ]
    with write_atomic(folder / "README.md") as path:
        path.write_text("\n".join(section for section in sections if section))


HEADER = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, retrieval, distillation, retort]
---
"""


def _table(title: str, rows: Mapping[str, str | int]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _usage(student: StudentModel) -> str:
    """The two lines that load the model, and what to pass: the query's prefix is a prompt of the model, titles are not."""
    wanted = passage_prompt(student.passage_format)[1]
    passage = f'"{wanted}".format(title=title, text=text)' if wanted != "{text}" else "text"
    return (
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n"
        'model = SentenceTransformer("path/of/this/folder")\n'
        f"scores = model.encode_query([question]) @ model.encode_document([{passage}]).T\n```\n\n"
        "Where a passage has no title, leave out the words that introduce it.\n"
    )
