"""Prose: sections of a folder, and cuts that fall at sentence ends."""

import pytest

from retort.data import read_corpus
from retort.data.prose import cut

TEXT = 'It was Dr. Who. "Snow!" he said. Nothing else fell (not yet.) And then\n\nthe end came, at last, slowly'


@pytest.mark.parametrize("words", [1, 2, 3, 5, 7, 100])
def test_a_cut_keeps_every_word_in_order_and_no_piece_is_longer(words):
    pieces = cut(TEXT, words)
    assert " ".join(pieces).split() == TEXT.split()
    assert max(len(piece.split()) for piece in pieces) <= words


def test_pieces_end_where_sentences_or_paragraphs_end():
    assert cut("One two three. Four five! 'Six?' Seven.\n \n\nEight\n\nNine e.g. ten, eleven", 5) == [
        "One two three. Four five!",
        "'Six?' Seven. Eight",
        "Nine e.g. ten, eleven",
    ]


def test_only_a_sentence_that_is_too_long_is_cut_inside():
    assert cut("Short one. A b c d e f g. End.", 4) == ["Short one.", "A b c d", "e f g. End."]


def test_a_folder_gives_passages_titled_by_heading_or_file_name(tmp_path):
    (tmp_path / "deep dir").mkdir()
    (tmp_path / "deep dir" / "winter.md").write_text("Before.\n# Snow #\nIt fell. It lay.\n```\n# no heading\n```\n## Ice\n")
    (tmp_path / "story.txt").write_text("# kept\nThe end.\n")
    (tmp_path / "empty.md").write_text("\n")
    passages = list(read_corpus(str(tmp_path), words=4))
    assert [(p.title, p.text) for p in passages] == [
        ("winter", "Before."),
        ("Snow", "It fell. It lay."),
        ("Snow", "``` # no heading"),
        ("Snow", "```"),
        ("story", "# kept The end."),
    ]
    assert [p.id for p in passages][0::4] == ["deep%20dir/winter.md-0-0", "story.txt-0-0"]
    assert len({p.id for p in passages}) == 5
