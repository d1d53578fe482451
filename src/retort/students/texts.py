"""The strings that a student encodes. Not here: the query's prefix, which is a prompt of the saved model (dense.py)."""

from string import Formatter

from retort.records import Passage


def passage_text(passage: Passage, passage_format: str) -> str:
    """The passage as `passage_format` writes it; an empty field goes together with the words that introduce it.

    >>> fid = "title: {title} context: {text}"
    >>> passage_text(Passage("1", "Snow", "It is cold."), fid), passage_text(Passage("2", "", "It is cold."), fid)
    ('title: Snow context: It is cold.', 'context: It is cold.')
    """
    values = {"title": passage.title, "text": passage.text, None: ""}
    parts = [
        literal + values[name] for literal, name, _, _ in Formatter().parse(passage_format) if name is None or values[name]
    ]
    return "".join(parts).strip()


def passage_prompt(passage_format: str) -> tuple[str, str]:
    """What stands before every passage, and the format of the rest: a format without title is a prompt of the model.

    The saved model then adds it itself, and stock `encode_document(text)` needs the bare text.

    >>> passage_prompt("passage: {text}"), passage_prompt("title: {title} context: {text}")
    (('passage: ', '{text}'), ('', 'title: {title} context: {text}'))
    """
    if "{title}" in passage_format:
        return "", passage_format
    before, field, after = passage_format.partition("{text}")
    return before, field + after
