"""Scores out of a pickle {query: {passage: score}} without running it: a pickle is a program, and this reads one as data.

Only the opcodes that build dicts of numbers and strings are understood; any that names a class or calls one is refused, so
that nothing of the file is ever imported or executed. One batch of queries (1,000 as pickle writes them) is in memory at a
time, where unpickling the 160 million scores of sentence-transformers' msmarco-hard-negatives takes over 20 GB.
"""

import pickle
import pickletools
import re
import struct
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from retort.data.rows import open_bytes

OPENING = b"\x80"  # protocol 2 and later; text does not begin so in UTF-8
BUFFER_BYTES = 1 << 13  # what is looked at and copied at a time
NAMES = {operation.code.encode("latin-1"): operation.name for operation in pickletools.opcodes}
BYTE, LENGTH = struct.Struct("<B"), struct.Struct("<I")
NUMBERS = {
    pickle.BININT: struct.Struct("<i"),
    pickle.BININT1: BYTE,
    pickle.BININT2: struct.Struct("<H"),
    pickle.BINFLOAT: struct.Struct(">d"),
}
# A key of four bytes and its score, over and over, are taken at once; the first key's opcode has been read.
PAIRS = re.compile(rb".{4}G.{8}(?:J.{4}G.{8})*", re.DOTALL)
PAIR = np.dtype([("J", "S1"), ("key", "<i4"), ("G", "S1"), ("score", ">f8")])
STRINGS = {pickle.SHORT_BINUNICODE: BYTE, pickle.BINUNICODE: LENGTH}
SKIPPED = {pickle.PROTO: 1, pickle.FRAME: 8}  # bytes that say how to read, which this does not need
PUTS, GETS = {pickle.BINPUT: BYTE, pickle.LONG_BINPUT: LENGTH}, {pickle.BINGET: BYTE, pickle.LONG_BINGET: LENGTH}
Key = int | str


def pickled_scores(path: Path) -> Iterator[tuple[Key, dict[Key, float]]]:
    """Each query with its passages' scores, in the order of the file, gzip or not. Keys are ints or strings.

    ValueError: anything but dicts of numbers in a dict, with the opcode and its byte; a file that breaks off.
    """
    with open_bytes(path) as file:
        machine = _Machine(BufferedReader(cast(Any, file), BUFFER_BYTES), path)
        try:
            yield from machine.run()
        except struct.error as error:
            raise ValueError(f"{path} breaks off at byte {machine.file.tell()}: fetch it again") from error


class _Machine:
    """A stack of values, marks, and the memo of strings: as much of pickle's machine as such a file needs."""

    def __init__(self, file: BufferedReader, path: Path) -> None:
        self.file, self.path = file, path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Iterator[tuple[Key, dict[Key, float]]]:
        """The items of the outermost dict, as soon as they are put into it."""
        read, push = self.file.read, self.stack.append
        while (code := read(1)) != pickle.STOP:
            if code == pickle.BININT and (pairs := PAIRS.match(self.file.peek())):  # nearly all there is
                found = np.frombuffer(code + read(pairs.end()), PAIR)
                self.stack.extend(chain.from_iterable(zip(found["key"].tolist(), found["score"].tolist(), strict=True)))
            elif (number := NUMBERS.get(code)) is not None:
                push(number.unpack(read(number.size))[0])
            elif code == pickle.SETITEMS or code == pickle.SETITEM:
                yield from self._set_items(self._marked() if code == pickle.SETITEMS else len(self.stack) - 2)
            elif code == pickle.MARK:
                self.marks.append(len(self.stack))
            elif code == pickle.EMPTY_DICT:
                self.stack.append({})
            else:
                self._rare(code)
        if len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            raise self._refused(f"the value {self.stack!r:.60}")

    def _rare(self, code: bytes) -> None:
        """Strings, large integers, what is skipped, and the memo."""
        if not code:
            raise struct.error("nothing is left")
        if code in STRINGS:
            self.stack.append(self._bytes(self._number(STRINGS[code])).decode())
        elif code == pickle.LONG1:
            self.stack.append(int.from_bytes(self._bytes(self._number(BYTE)), "little", signed=True))
        elif code in SKIPPED:
            self._bytes(SKIPPED[code])
        elif code == pickle.MEMOIZE:
            self._remember(len(self.memo))
        elif code in PUTS:
            self._remember(self._number(PUTS[code]))
        elif code in GETS and isinstance(known := self.memo.get(self._number(GETS[code])), str):
            self.stack.append(known)
        else:
            raise self._refused(f"the opcode {NAMES.get(code, repr(code))}")

    def _set_items(self, start: int) -> Iterator[tuple[Key, dict[Key, float]]]:
        """Items from `start` of the stack, put into the dict below them; handed out where that is the outermost."""
        items = self.stack[start:]
        if start < 1 or len(items) % 2 or not isinstance(self.stack[start - 1], dict):
            raise self._refused("items outside of a dict")
        del self.stack[start:]
        keys, values = items[::2], items[1::2]
        outermost = start == 1
        if not all(isinstance(key, int | str) for key in keys):
            raise self._refused("a key that is neither a number nor a string")
        if not all(isinstance(value, dict if outermost else int | float) for value in values):
            raise self._refused(f"{'no dict' if outermost else 'no number'} as a value")
        if outermost:
            yield from zip(keys, values, strict=True)
        else:
            self.stack[-1].update(zip(keys, values, strict=True))

    def _marked(self) -> int:
        if not self.marks:
            raise self._refused("items without a mark")
        return self.marks.pop()

    def _remember(self, place: int) -> None:
        """Keep a string for later; a dict's place only, or every one of them would stay in memory."""
        top = self.stack[-1] if self.stack else None
        self.memo[place] = top if isinstance(top, str) else None

    def _number(self, form: struct.Struct) -> int:
        return form.unpack(self.file.read(form.size))[0]

    def _bytes(self, count: int) -> bytes:
        return struct.unpack(f"{count}s", self.file.read(count))[0]  # an error where there are fewer

    def _refused(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path}: {what} at byte {self.file.tell()}, expected a dict of dicts of plain numbers, query -> passage "
            "-> score; anything else in a pickle can run code, and is not read: convert a file that you trust to JSON lines "
            '{"query_id", "document_ids", "scores"}'
        )
