import numpy as np
import pytest
import torch

from retort.distil.batches import examples, make_batch, sampled
from retort.distil.curation import CONSTANT, FEW, Curation
from retort.distil.sampling import SAMPLERS
from retort.records import Query, Run
from tiny import tiny_world

CORPUS, QUERIES, LABELS = tiny_world()


def test_a_batch_points_to_each_querys_passages_and_labels():
    kept = examples(LABELS, QUERIES, CORPUS).kept
    batch = make_batch(kept, CORPUS)
    for row, labelled in enumerate(kept):
        found = [batch.passages[int(i)].id for i in batch.candidates[row][batch.mask[row]]]
        assert found == CORPUS.ids(labelled.passages)
        assert batch.labels[row][batch.mask[row]].tolist() == labelled.scores.tolist()
        assert batch.queries[row] == labelled.query


def test_each_distinct_passage_stands_once():
    batch = make_batch(examples(LABELS, QUERIES, CORPUS).kept, CORPUS)
    assert len(batch.passages) == len({passage.id for passage in batch.passages}) == len(CORPUS)


def test_missing_candidates_are_masked_and_labelled_zero():
    batch = make_batch(examples(LABELS, QUERIES, CORPUS).kept, CORPUS)
    assert batch.mask.sum(1).tolist() == [14, 13, 12, 14, 13, 12]
    assert (batch.labels[~batch.mask] == 0).all()


def test_queries_that_teach_no_order_are_dropped_and_counted():
    labels = Run.build("teacher", ["q0", "q1", "q2", "q3"], [[1], [2, 3], [], [4, 5]], [[1.0], [2.0, 2.0], [], [3.0, 1.0]])
    data = examples(labels, QUERIES, CORPUS)
    assert [labelled.query.id for labelled in data.kept] == ["q3"]
    assert data.dropped == {FEW: 2, CONSTANT: 1}


def test_labels_that_teach_nothing_at_all_are_refused():
    with pytest.raises(ValueError, match="none of 1 queries can be trained on"):
        examples(Run.build("teacher", ["q0"], [[1]], [[1.0]]), QUERIES, CORPUS)


def test_a_labelled_query_that_is_not_among_the_queries_is_named():
    with pytest.raises(ValueError, match="query 'q9'"):
        examples(Run.build("teacher", ["q9"], [[1, 2]], [[1.0, 0.0]]), QUERIES, CORPUS)


def test_a_label_beyond_the_corpus_is_named():
    with pytest.raises(ValueError, match="passage row 99, the corpus has 14"):
        examples(Run.build("teacher", ["q0"], [[1, 99]], [[1.0, 0.0]]), QUERIES, CORPUS)


def drawn(count, *, seed=0, step=3):
    """The third query, drawn `count` times."""
    data = examples(LABELS, QUERIES, CORPUS)
    return sampled(data, [2] * count, SAMPLERS["random"], 5, seed=seed, step=step)


def test_another_step_seed_or_place_draws_other_candidates():
    lists = [*drawn(2), *drawn(1, step=4), *drawn(1, seed=1)]
    assert len({tuple(one.passages.tolist()) for one in lists}) == 4


def test_drawn_candidates_keep_their_labels():
    labelled = drawn(1)[0]
    rows, scores = LABELS.of("q2")
    of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    assert [of[row] for row in labelled.passages.tolist()] == labelled.scores.tolist()


def test_a_batch_goes_to_a_device_whole():
    batch = make_batch(examples(LABELS, QUERIES, CORPUS).kept, CORPUS).to(torch.device("meta"))
    assert {t.device.type for t in (batch.candidates, batch.mask, batch.positive, batch.labels)} == {"meta"}
    assert len(batch.queries) == 6


def test_a_query_given_twice_in_a_batch_keeps_its_own_draw():
    batch = make_batch(drawn(2), CORPUS)
    assert batch.queries[0] == batch.queries[1] == Query("q2", batch.queries[0].text, batch.queries[0].answers)
    assert not np.array_equal(batch.candidates[0].numpy(), batch.candidates[1].numpy())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_list_with_a_known_positive_is_never_drawn_without_one(name):
    curation = Curation(mark=lambda query, rows: np.arange(len(rows)) == len(rows) - 1)  # the last, which few samplers like
    data = examples(LABELS, QUERIES, CORPUS, curation)
    for step in range(20):
        for one in sampled(data, [0, 1], SAMPLERS[name], 2, seed=0, step=step):
            assert one.positive.sum() == 1
            assert len(set(one.passages.tolist())) == 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_list_with_a_known_negative_is_never_drawn_without_one(name):
    curation = Curation(mark=lambda query, rows: np.arange(len(rows)) < len(rows) - 1)  # all but the last
    data = examples(LABELS, QUERIES, CORPUS, curation)
    for step in range(20):
        for one in sampled(data, [0, 1], SAMPLERS[name], 2, seed=0, step=step):
            assert one.positive.tolist() == [True, False]


def test_what_was_labelled_for_a_query_and_not_drawn_is_marked_among_the_passages_of_the_others():
    data = examples(LABELS, QUERIES, CORPUS)
    chosen = sampled(data, [0, 1, 2], SAMPLERS["random"], 4, seed=0, step=0)
    batch = make_batch(chosen, CORPUS)
    for row, labelled in enumerate(chosen):
        own, known = set(labelled.passages.tolist()), set(LABELS.of(labelled.query.id)[0].tolist())
        places = CORPUS.rows([passage.id for passage in batch.passages]).tolist()
        assert batch.undrawn[row].tolist() == [place in known - own for place in places]
    assert batch.undrawn.any()


def test_what_curation_leaves_out_is_no_negative_either():
    curation = Curation(mark=lambda query, rows: np.arange(len(rows)) == 5, teacher_margin=0.0)
    kept = examples(LABELS, QUERIES, CORPUS, curation).kept[0]
    assert set(kept.others.tolist()) == set(LABELS.of(kept.query.id)[0][:5].tolist())
