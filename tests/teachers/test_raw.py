"""What is checked of scores."""

import numpy as np
import pytest

from retort.records import Group, Passage, Query
from retort.teachers.raw import check_finite, check_raw, looks_squashed

LOGITS = np.random.default_rng(0).normal(-6, 4, 200).astype(np.float32)  # a ranker on what a search found


def test_logits_pass_and_their_sigmoids_do_not():
    check_raw(LOGITS, "scores.tsv")
    with pytest.raises(ValueError, match=r"scores.tsv: all 200 scores lie between 0 and 1, \d\d% of them .* raw logits"):
        check_raw(1 / (1 + np.exp(-LOGITS)), "scores.tsv")


def test_cosines_probabilities_in_the_middle_and_a_handful_pass():
    assert not looks_squashed(np.linspace(0.2, 0.9, 100, dtype=np.float32))
    assert not looks_squashed(np.zeros(19, np.float32))
    assert looks_squashed(np.zeros(20, np.float32))


def test_one_score_outside_shows_that_nothing_squashed_them():
    squashed = 1 / (1 + np.exp(-LOGITS))
    squashed[7] = 1.5
    assert not looks_squashed(squashed)


def test_the_pair_without_a_number_is_named():
    group = Group(Query("q7", "who"), (Passage("p1", "", "a"), Passage("p2", "", "b")))
    with pytest.raises(ValueError, match="the retriever scores query 'q7' with passage 'p2' nan"):
        check_finite(group, np.array([1, np.nan], np.float32), "retriever")
