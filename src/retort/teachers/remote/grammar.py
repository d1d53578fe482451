"""A judge's grammar as servers take it with a request, so that the model can say nothing else; what a reply in JSON holds.

json_schema: `response_format` of OpenAI, which vLLM, SGLang, llama.cpp's server and many services take. The reply is an
object of one field. regex: `structured_outputs` of vLLM (0.12 took `guided_regex` away) and `regex` of SGLang, each of which
overlooks the other's field; the reply is as without a grammar. A server that knows none of it may overlook it without a
word: what comes is read as strictly as ever (forms.py).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from retort.config.language import Grammar

WRAPPING = 8  # tokens of an object of one field around its value, written over lines


class MalformedError(ValueError):
    """An answer that is not of the form; the message says in what."""


def constraint(grammar: Grammar, name: str, schema: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """Fields of a request that hold the reply to a `pattern`, or to an object whose field `name` is of a `schema`."""
    if grammar == "regex":
        return {"structured_outputs": {"regex": pattern}, "regex": pattern}
    if grammar == "none":
        return {}
    one = {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": one}}}


def either(numbers: Iterable[int]) -> str:
    """The pattern of one of the numbers.

    >>> either([0, 1, 2])
    '(0|1|2)'
    """
    return f"({'|'.join(map(str, numbers))})"


def unwrapped(text: str, form: str) -> list[int]:
    """The whole numbers, one or a list, in a reply that is JSON of the `form` of an example. MalformedError: it is not.

    >>> unwrapped('{"grade": 3}', '{"grade": 2}'), unwrapped('{"ranking": [1, 2]}', '{"ranking": [2, 1, 3]}')
    ([3], [1, 2])
    """
    [(name, example)] = json.loads(form).items()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    value = found[name] if isinstance(found, dict) and list(found) == [name] else None
    said = value if isinstance(value, list) else [value]
    numbers = [number for number in said if type(number) is int]
    if type(value) is not type(example) or len(numbers) < len(said):
        raise MalformedError(f"it is not of the form {form}")
    return numbers
