"""A docstring as prose: clean lines, its signature, its summary, and pieces of so many words. Pure functions of strings.

What to document and what to ask about it is decided in `docstrings.py`.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Parts that say nothing about the object itself, or that hold the summaries of its neighbours
_SKIPPED_SECTION = re.compile(r"(see also|examples?|references|methods|raises|warns)$", re.IGNORECASE)
_UNDERLINE = re.compile(r"\s*([-=~^])\1{2,}\s*$")
_SUPPORT_TABLE = "**Array API Standard Support**"  # SciPy's, the same in a thousand docstrings; ends with its section
_BLOCK = re.compile(r"\s*\.\. (math|plot|code|code-block|testcode|testoutput|doctest|image|figure)::|(?!\s*\.\.).*::\s*$")
_EXAMPLE_HEAD = re.compile(r"\s*(examples?|usage)\s*:*\s*$", re.IGNORECASE)
_MARKUP = (
    (re.compile(r":[a-z:]+:`~?\.?([^`<]*?)(\s*<[^`]*>)?`"), r"\1"),  # :func:`~torch.abs`
    (re.compile(r"`([^`<]+?)\s*<[^`]*>`_+"), r"\1"),  # `a link <address>`_
    (re.compile(r"\[([^\]]+)\]\([^)\s]+\)"), r"\1"),  # [a link](address)
    (re.compile(r"\[?`+~?([^`]*)`+_*\]?"), r"\1"),  # `code`, [`Trainer`]
    (re.compile(r"\*\*([^*\s][^*]*)\*\*"), r"\1"),  # **bold**
    (re.compile(r"\.\. (version\w+|deprecated)::( v?\d[\d.]*)?"), ""),
    (re.compile(r"\.\. [\w-]+::|</?Tip[^>]*>|\s\[\w+\]_"), ""),  # a directive, a call-out, a citation
    (re.compile(r" at 0x[0-9a-fA-F]+"), ""),  # a memory address, which differs from process to process
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_CALL = re.compile(r"(?:[\w.]+\.)?(\w+)\s?(?=\()")
_SIGNATURE_WORDS = 30  # TrainingArguments has more than a hundred parameters


def prose(document: str) -> list[str]:
    r"""The lines of `document` that a reader would read, without markup; "" stands between paragraphs.

    Left out: numpydoc sections of examples, references and related functions, doctests, code and formula blocks.

    >>> prose("Add :func:`it` up.\n\nSee Also\n--------\nsub : Take away.\n\nNotes\n-----\nFast.")
    ['Add it up.', '', 'Notes', 'Fast.']
    """
    text = "\n".join(_without_code(_without_sections(inspect.cleandoc(document).splitlines())))
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [line for i, line in enumerate(lines) if line or any(lines[i - 1 : i])]


def without_signature(lines: Sequence[str], name: str) -> tuple[str, list[str]]:
    """The parameters in brackets with which `lines` begin ("" where they do not), and the lines after them.

    Built-in functions carry their signatures there, some several. Text behind a signature on its line stays.

    >>> without_signature(["pow(x, y) -> float", "", "x to the power of y."], "pow")
    ('(x, y)', ['x to the power of y.'])
    """
    text, signature = "\n".join(lines), ""
    while (match := _CALL.match(text)) and match[1] == name:
        end = _closing(text, match.end())
        signature = signature or " ".join(text[match.end() : end].split())
        line, newline, rest = text[end:].partition("\n")
        kept = re.sub(r"^\s*(->[^.,:]*[.,:]*|[.:]|-+(?!>))?\s*", "", line)
        text = kept[:1].upper() + kept[1:] + newline + rest if len(kept.split()) > 3 else rest.lstrip("\n")
    return short_signature(signature), text.splitlines()


def short_signature(signature: str) -> str:
    """`signature`, cut after 30 words."""
    words = signature.split()
    return signature if len(words) <= _SIGNATURE_WORDS else " ".join(words[:_SIGNATURE_WORDS]) + " ...)"


def split_summary(lines: Sequence[str]) -> tuple[str, list[str]]:
    """The first sentence of the first paragraph without its dot, and the lines after it.

    >>> split_summary(["Sort a list", "in place. It is stable.", "", "Fast."])
    ('Sort a list in place', ['It is stable.', '', 'Fast.'])
    """
    end = next((i for i, line in enumerate(lines) if not line), len(lines))
    sentences = _SENTENCE_END.split(" ".join(lines[:end]), maxsplit=1)
    return sentences[0].strip(" .:"), [*sentences[1:], *lines[end + (len(sentences) == 1) :]]


def pieces(lines: Sequence[str], words: int) -> list[str]:
    """`lines` joined and cut into pieces of about `words` words, at sentence ends or else at line ends.

    A piece ends at the last sentence or paragraph end of its second half, or at a line end where there is none there.
    A last piece of less than a quarter joins the one before it; a single line longer than `words` stays whole.

    >>> pieces(["One two. Three", "four five six.", "", "Seven eight nine."], 4)
    ['One two.', 'Three four five six.', 'Seven eight nine.']
    """
    found: list[list[_Atom]] = [[]]
    for atom in _atoms(lines):
        current = found[-1]
        if current and _total(current) + atom.words > words:
            cuts = [i for i, one in enumerate(current, start=1) if one.ends and 2 * _total(current[:i]) >= words]
            cut = cuts[-1] if cuts else len(current)
            found[-1:] = [current[:cut], current[cut:]]
        found[-1].append(atom)
    if len(found) > 1 and 4 * _total(found[-1]) < words:
        found[-2:] = [found[-2] + found[-1]]
    return [" ".join(atom.text for atom in piece) for piece in found if piece]


class _Atom(NamedTuple):
    """A sentence, or the part of one that stands on a line; `ends` where a sentence or a paragraph ends with it."""

    text: str
    words: int
    ends: bool


def _atoms(lines: Sequence[str]) -> Iterator[_Atom]:
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        parts = _SENTENCE_END.split(line) if line else []
        for i, part in enumerate(parts, start=1):
            yield _Atom(part, len(part.split()), i < len(parts) or not following or part.endswith((".", "!", "?")))


def _total(atoms: Sequence[_Atom]) -> int:
    return sum(atom.words for atom in atoms)


def _without_sections(lines: Sequence[str]) -> Iterator[str]:
    """The lines without underlines and without the skipped numpydoc sections (a heading and a line of dashes)."""
    skipping = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if (_UNDERLINE.match(following) and line.strip()) or _SUPPORT_TABLE in line:
            skipping = _SUPPORT_TABLE in line or bool(_SKIPPED_SECTION.match(line.strip()))
        if not skipping and not _UNDERLINE.match(line):
            yield line


def _without_code(lines: Iterator[str]) -> Iterator[str]:
    """The lines without doctests (up to a blank line), fenced code, and blocks indented under "::" or a formula."""
    fence, doctest, block = False, False, -1  # block: the indentation that the block's text must exceed
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text.startswith("```"):
            fence = not fence
            continue
        doctest = bool(text) and (doctest or text.startswith(">>>"))
        block = -1 if text and indent <= block else block
        if fence or doctest or _EXAMPLE_HEAD.match(line) or (text and block >= 0):
            continue
        if _BLOCK.match(line):
            block = indent
            line = re.sub(r"\s*\.\. .*|::\s*$", "", line)
        yield line


def _closing(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`; the end of the line where none does."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if not depth:
            return at + 1
    return text.find("\n", start) % (len(text) + 1)
