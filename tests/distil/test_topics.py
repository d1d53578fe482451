"""Batches of one topic, where it has enough questions: each question once an epoch, a function of seed and step."""

import numpy as np
import pytest

from retort.distil.topics import Topics, clustered

OF_ROWS = np.array([0] * 9 + [1] * 5 + [2] * 3 + [3])
TOPICS = Topics(np.random.default_rng(0).permutation(OF_ROWS))


def epoch(number, batch=4, seed=0):
    batches = len(OF_ROWS) // batch
    return [TOPICS.rows(batch, step, seed) for step in range(number * batches, (number + 1) * batches)]


@pytest.mark.parametrize("batch", [1, 3, 4, 18])
def test_an_epoch_takes_a_question_once_and_leaves_less_than_a_batch_out(batch):
    for number in range(3):
        rows = np.concatenate(epoch(number, batch))
        assert len(set(rows.tolist())) == len(rows) == 18 // batch * batch


def test_as_many_batches_are_of_one_topic_as_the_topics_can_fill():
    for number in range(5):
        alone = [len(set(TOPICS.of_rows[rows].tolist())) == 1 for rows in epoch(number)]
        assert sum(alone) >= 9 // 4 + 5 // 4


def test_what_is_left_out_changes_with_the_epoch():
    left = {tuple(sorted(set(range(18)) - set(np.concatenate(epoch(number)).tolist()))) for number in range(8)}
    assert len(left) > 1


def test_rows_depend_on_seed_and_step_alone():
    later = TOPICS.rows(4, 9, 2).tolist()
    TOPICS.rows(4, 1, 2)
    assert TOPICS.rows(4, 9, 2).tolist() == later
    assert Topics(TOPICS.of_rows).rows(4, 9, 2).tolist() == later
    assert [rows.tolist() for rows in epoch(0)] != [rows.tolist() for rows in epoch(0, seed=1)]
    assert [rows.tolist() for rows in epoch(0)] != [rows.tolist() for rows in epoch(1)]


def test_fewer_questions_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="found 18 questions, expected a batch of 19; lower it"):
        TOPICS.rows(19, 0, 0)


def test_vectors_of_one_direction_have_one_topic_whatever_their_length():
    rng = np.random.default_rng(1)
    centres = np.eye(3, 8, dtype=np.float32)
    of = rng.integers(0, 3, 60)
    vectors = (centres[of] + 0.05 * rng.standard_normal((60, 8))).astype(np.float32) * rng.uniform(1, 9, (60, 1)).astype(
        "f4"
    )
    found = clustered(vectors, 3, seed=0)
    assert len({(int(a), int(b)) for a, b in zip(of, found, strict=True)}) == 3


@pytest.mark.parametrize("count", [1, 5, 50])
def test_there_are_no_more_topics_than_vectors(count):
    assert len(set(clustered(np.eye(5, dtype=np.float32), count, seed=0).tolist())) <= min(5, count)
