"""Which part of a passage's format a saved model adds itself. Not here: the string that is encoded (text.passage_text)."""


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
