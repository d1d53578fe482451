"""A folder of .txt and .md files as sections with titles, and prose cut into passages at sentence ends."""

from collections.abc import Iterator
from pathlib import Path

import regex

from retort.data.rows import Row, read_lines

ENDINGS = (".txt", ".md")
HEADING = regex.compile(r" {0,3}#{1,6}\s+(.*?)\s*#*\s*")
FENCE = regex.compile(r" {0,3}(```|~~~).*")
# After a full stop (and closing quotes), unless a small letter follows ("e.g. this"); or at an empty line.
SENTENCE_END = regex.compile(r"(?<=[.!?…][\"'”\u2019»)\]]*)\s+(?=\P{Ll})|\s*\n[^\S\n]*\n\s*")


def section_rows(folder: Path) -> Iterator[Row]:
    """The sections of every .txt and .md below `folder`, by path: title = heading, or the file's name without one."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()):
        name = path.relative_to(folder).as_posix().replace(" ", "%20")  # TREC files part ids at spaces
        for number, (line, title, text) in enumerate(_sections(path)):
            yield Row({"id": f"{name}-{number}", "title": title, "prose": text}, f"{path}:{line}")


def _sections(path: Path) -> Iterator[tuple[int, str, str]]:
    """First line, title and text of each section that says something; a # inside a code fence is no heading."""
    start, title, text, fenced = 1, path.stem, "", False
    for number, line in read_lines(path):
        markdown = path.suffix.lower() == ".md"
        fenced ^= markdown and FENCE.fullmatch(line.rstrip()) is not None
        heading = HEADING.fullmatch(line.rstrip()) if markdown and not fenced else None
        if heading:
            if text.strip():
                yield start, title, text
            start, title, text = number, heading[1] or path.stem, ""
        else:
            text += line
    if text.strip():
        yield start, title, text


def cut(text: str, words: int) -> list[str]:
    """`text` in pieces of at most `words` words that end where sentences end; white space becomes single spaces.

    Only a sentence that is longer than `words` is cut inside. DPR (Karpukhin et al. 2020) uses 100 words.

    >>> cut("It snowed all day. Nobody went out, e.g. to play.  The end.", 8)
    ['It snowed all day.', 'Nobody went out, e.g. to play. The end.']
    """
    pieces: list[list[str]] = [[]]
    for sentence in SENTENCE_END.split(text):
        tokens = sentence.split()
        if len(pieces[-1]) + len(tokens) > words:
            pieces.append([])
        for token in tokens:
            if len(pieces[-1]) == words:
                pieces.append([])
            pieces[-1].append(token)
    return [" ".join(piece) for piece in pieces if piece]
