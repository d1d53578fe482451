import pytest

from retort.data.docstring_prose import pieces, prose, short_signature, split_summary, without_signature

NUMPYDOC = """Sort :func:`~numpy.things` in ``place``.

    Parameters
    ----------
    a : array_like
        What to sort, see `the guide <https://example.org>`_.

    See Also
    --------
    argsort : Another thing entirely.

    Examples
    --------
    >>> sort([2, 1])
    [1, 2]

    Notes
    -----
    It is stable.

    **Array API Standard Support**

    A long table.
    """


def test_prose_keeps_what_describes_the_object_and_nothing_else():
    assert [line for line in prose(NUMPYDOC) if line] == [
        "Sort numpy.things in place.",
        "Parameters",
        "a : array_like",
        "What to sort, see the guide.",
        "Notes",
        "It is stable.",
    ]


@pytest.mark.parametrize(
    "document",
    [
        "Adds.\n\nExample::\n\n    >>> add(1)\n    2\n\nDone.",
        "Adds.\n\n```python\nx = 1\n```\n\nDone.",
        "Adds.\n\n.. math::\n    a + b\n\nDone.",
        "Adds.\n\n>>> add(1)\n2\n\nDone.",
    ],
)
def test_prose_leaves_out_code_and_formulas(document):
    assert [line for line in prose(document) if line] == ["Adds.", "Done."]


def test_prose_has_one_blank_line_between_paragraphs():
    assert prose("One\n  two.\n\n\n\nThree.") == ["One", "two.", "", "Three."]


def test_prose_drops_memory_addresses():
    assert prose("Calls <function f at 0x7f64c62cea40> now.") == ["Calls <function f> now."]


def test_the_text_behind_a_signature_on_its_line_stays():
    assert without_signature(["D.pop(k[,d]) -> v, remove the key and return its value."], "pop") == (
        "(k[,d])",
        ["Remove the key and return its value."],
    )


def test_several_signatures_give_the_first():
    lines = ["range(stop) -> range object", "range(start, stop[, step]) -> range object", "", "Return an object."]
    assert without_signature(lines, "range") == ("(stop)", ["Return an object."])


def test_a_signature_that_never_closes_ends_with_its_line():
    assert without_signature(["f(a, b", "Text."], "f") == ("(a, b", ["Text."])


def test_a_call_of_another_name_is_text():
    assert without_signature(["print(x) is used here."], "f") == ("", ["print(x) is used here."])


def test_a_long_signature_is_cut():
    signature = short_signature("(" + ", ".join(f"a{i}" for i in range(100)) + ")")
    assert len(signature.split()) == 31
    assert signature.endswith("a29, ...)")


def test_a_summary_that_is_a_whole_paragraph_takes_the_blank_line_with_it():
    assert split_summary(["Add two", "numbers.", "", "Fast."]) == ("Add two numbers", ["Fast."])


def test_nothing_has_an_empty_summary():
    assert split_summary([]) == ("", [])


def test_pieces_hold_every_word_once_and_no_piece_is_too_long():
    lines = [f"Line {i} has words." if i % 3 else f"start {i} of" for i in range(40)]
    found = pieces(lines, 20)
    assert " ".join(found).split() == " ".join(lines).split()
    assert max(len(piece.split()) for piece in found) <= 25


def test_pieces_end_at_line_ends_where_there_is_no_sentence_end():
    assert pieces(["a b c", "d e f", "g h i"], 6) == ["a b c d e f", "g h i"]


def test_a_short_rest_joins_the_last_piece():
    assert pieces(["a b c d e f g h.", "i"], 8) == ["a b c d e f g h. i"]
