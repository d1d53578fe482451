"""The audit of labels, proven on teachers that were sabotaged in known ways."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from retort.evaluation.audit import audit, audit_labels, lines, tables
from retort.evaluation.audit_order import answer_flags, passage_lengths
from retort.evaluation.audit_reasons import direction
from retort.evaluation.ranks import Estimate
from retort.records import Corpus, Passage, Query, Run

SOURCES = {"answers": ("flags", "lengths"), "BM25": ("lengths", "others"), "both": ("flags", "lengths", "others")}


@dataclass(frozen=True)
class World:
    """Lengths, answers that follow relevance (and a little length), the logits of a good teacher, and BM25's scores."""

    lengths: np.ndarray
    holds: np.ndarray
    teacher: np.ndarray
    bm25: np.ndarray

    def run(self, scores, name="teacher"):
        queries, depth = scores.shape
        rows = np.arange(queries * depth).reshape(queries, depth)
        return Run.build(name, [f"q{i}" for i in range(queries)], list(rows), list(scores))

    def facts(self, scores):
        """The labels with these scores, and the arguments of `audit` for them."""
        labels = self.run(scores)
        flags = {query_id: self.holds.reshape(-1)[rows] for query_id, rows, _ in labels}
        lengths = self.lengths.reshape(-1)[labels.passages]
        return labels, {"flags": flags, "lengths": lengths, "others": [self.run(self.bm25, "bm25")]}


def world(seed, *, queries=200, depth=20):
    """A good teacher: logits of deviation 2.2, correlated 0.9 with relevance. BM25 is noisier and likes length a little."""
    rng = np.random.default_rng(seed)
    relevance, noise, lexical, long = rng.standard_normal((4, queries, depth))
    lengths = np.round(600 * np.exp(0.4 * long)).astype(np.int64)  # characters: the middle half has 460 to 790
    chance = 0.04 * np.exp(0.2 * long) + 0.4 * (relevance > 1.2)
    holds = rng.random((queries, depth)) < chance
    return World(lengths, holds, 2 * relevance + noise, 8 + relevance + 1.5 * lexical + 0.2 * long)


def by_length(w, *, noise):
    return 4 * np.log(w.lengths) + noise * np.random.default_rng(9).standard_normal(w.lengths.shape)


SABOTAGE = {
    "shuffled": lambda w: np.random.default_rng(9).permuted(w.teacher, axis=1),
    "constant": lambda w: np.full_like(w.teacher, 3.0),
    "sign-flipped": lambda w: -w.teacher,
    "length-only": lambda w: by_length(w, noise=0.1),
    "squashed": lambda w: 1 / (1 + np.exp(3 - w.teacher)),
}


def verdict(scores, sources="both", seed=0, queries=200, **settings):
    labels, facts = world(seed, queries=queries).facts(scores)
    return audit(labels, **{name: facts[name] for name in SOURCES.get(sources, ())}, **settings)


def names(found):
    return {reason.name: reason.gravity for reason in found.reasons}


@pytest.mark.parametrize("seed", range(6))
def test_a_good_teacher_is_trained_on(seed):
    for sources in SOURCES:
        found = verdict(world(seed).teacher, sources, seed)
        assert found.verdict == "train"
        assert set(names(found).values()) == {"note"}


@pytest.mark.parametrize("sources", ["answers", "BM25", "both"])
@pytest.mark.parametrize("name", ["shuffled", "constant", "sign-flipped", "length-only"])
def test_a_sabotaged_teacher_is_refused_for_what_was_done_to_it(name, sources):
    found = verdict(SABOTAGE[name](world(0, queries=500)), sources, queries=500)
    assert found.verdict == "do not train"
    assert [name for name, gravity in names(found).items() if gravity == "stop"] == [name]


@pytest.mark.parametrize("seed", range(3))
def test_a_sigmoid_is_named_and_the_advised_temperature_repairs_its_sharpness(seed):
    squashed = SABOTAGE["squashed"](world(seed))
    found = verdict(squashed, seed=seed)
    assert (found.verdict, names(found)["squashed"]) == ("train with care", "care")
    assert f"temperature to {found.advised:g}" in found.reasons[0].text
    assert "log(p / (1 - p))" in found.reasons[0].text
    assert verdict(squashed, seed=seed, temperature=found.advised).verdict == "train"


def test_a_sigmoid_that_saturates_is_named_at_any_temperature():
    found = verdict(1 / (1 + np.exp(6 - world(0).teacher)), temperature=0.01)
    assert names(found) == {"squashed": "care", "answers": "note"}


def test_cosines_are_repaired_by_the_advised_temperature():
    cosines = 0.8 + 0.02 * world(0).teacher
    found = verdict(cosines)
    assert set(names(found)) == {"squashed", "answers"}
    assert verdict(cosines, temperature=found.advised).verdict == "train"


def test_a_softmax_of_scores_is_named():
    shares = np.exp(world(0).teacher)
    found = verdict(shares / shares.sum(1, keepdims=True))
    assert names(found) == {"softmaxed": "care", "answers": "note"}


@pytest.mark.parametrize(("factor", "name"), [(400.0, "one-hot"), (0.01, "flat")])
def test_too_sharp_and_too_flat_targets_are_named_and_repaired_by_the_advised_temperature(factor, name):
    found = verdict(factor * world(0).teacher)
    assert (found.verdict, names(found)) == ("train with care", {name: "care", "answers": "note"})
    assert verdict(factor * world(0).teacher, temperature=found.advised).verdict == "train"


def test_rounded_scores_are_named():
    assert names(verdict(np.round(world(0).teacher / 3)))["ties"] == "care"


def test_constant_queries_are_counted_and_left_out_of_the_order():
    scores = world(0).teacher.copy()
    scores[:30] = 1.0
    found = verdict(scores)
    assert (found.verdict, names(found)) == ("train with care", {"constant": "care", "answers": "note"})
    assert found.agreements[0].tau.queries == 170
    assert found.shares["constant queries"] == pytest.approx(0.15)


def test_without_an_order_in_most_queries_for_two_reasons_there_is_no_training():
    lists = [[1.0], [2.0, 2.0]] * 20 + [[3.0, 1.0]] * 20
    labels = Run.build("teacher", [f"q{i}" for i in range(60)], [range(len(one)) for one in lists], lists)
    found = audit(labels)
    assert {"constant", "too short"} == {name for name, gravity in names(found).items() if gravity == "stop"}


def test_without_answers_and_other_runs_the_order_is_unknown():
    found = verdict(world(0).teacher, "nothing")
    assert (found.verdict, names(found)) == ("train with care", {"order unknown": "care"})


def test_few_queries_are_said_to_be_too_few_instead_of_judged():
    for scores in (world(0, queries=20).teacher, -world(0, queries=20).teacher):
        found = verdict(scores, queries=20)
        assert names(found) == {"few queries": "care", "order unknown": "care"}


@pytest.mark.parametrize("lists", [[[]], [[2.0]], [[2.0, 1.0]], [[], [1.0, 0.0, -1.0, -2.0]]])
def test_the_smallest_runs_are_audited(lists):
    labels = Run.build("teacher", [f"q{i}" for i in range(len(lists))], [list(range(len(one))) for one in lists], lists)
    flags = {query_id: np.arange(len(rows)) == 0 for query_id, rows, _ in labels}
    found = audit(labels, flags=flags, lengths=np.arange(len(labels.passages)), others=[Run.build("bm25", [], [], [])])
    assert "few queries" in names(found)
    json.dumps(found.plain(), allow_nan=False)


def test_answers_decide_against_other_runs():
    w = world(0)
    labels, facts = w.facts(w.teacher)
    found = audit(labels, **facts | {"others": [w.run(-w.bm25, "bm25")]})
    assert (found.verdict, names(found)) == ("train", {"answers": "note"})


def test_agreement_with_one_other_run_saves_a_teacher_that_answers_cannot_tell_from_chance():
    w = world(0, queries=800)
    labels, facts = w.facts(w.teacher)
    rng = np.random.default_rng(1)
    facts["flags"] = {query_id: rng.permutation(held) for query_id, held in facts["flags"].items()}
    assert names(audit(labels, **facts)) == {"barely better": "care"}
    assert names(audit(labels, **facts | {"others": []})) == {"shuffled": "stop"}


def test_one_other_run_that_agrees_outweighs_one_that_does_not():
    w = world(0)
    shuffled = w.run(np.random.default_rng(2).permuted(w.bm25, axis=1), "shuffled")
    assert audit(w.run(w.teacher), others=[w.run(w.bm25, "bm25"), shuffled]).verdict == "train"


def test_one_run_alone_proves_nothing_of_candidates_that_were_fused_from_it_and_another():
    rng = np.random.default_rng(4)
    lexical, semantic = rng.standard_normal((2, 300, 200))
    w, ids = world(0, queries=300, depth=200), [f"q{i}" for i in range(300)]
    fused = [np.union1d(np.argsort(-a)[:5], np.argsort(-b)[:5]) for a, b in zip(lexical, semantic, strict=True)]
    rows = [200 * i + kept for i, kept in enumerate(fused)]
    teacher = Run.build("teacher", ids, rows, [(a + 2 * b)[k] for a, b, k in zip(lexical, semantic, fused, strict=True)])
    bm25, dense = w.run(lexical, "bm25"), w.run(semantic, "dense")
    alone, both = audit(teacher, others=[bm25]), audit(teacher, others=[bm25, dense])
    assert alone.agreements[0].tau.high < 0  # though the teacher likes what BM25 likes
    assert names(alone) == {"order unknown": "care"}
    assert names(both) == {"agreement": "note"}
    assert names(audit(w.run(-w.teacher), others=[w.run(w.teacher, "bm25")])) == {"sign-flipped": "stop"}


def test_an_order_mostly_by_length_is_refused_where_nothing_else_finds_answers_and_else_named():
    w = world(0, queries=600)
    noise = verdict(by_length(w, noise=1.0), "answers", queries=600)
    assert 0.5 < noise.lengths[0].rho.mean < 0.9
    assert names(noise) == {"length-only": "stop"}
    gains = verdict(4 * np.log(w.lengths) + 0.6 * w.teacher, "answers", queries=600)
    assert 0.5 < gains.lengths[0].rho.mean < 0.9
    assert names(gains) == {"length-heavy": "care", "answers": "note"}


def test_only_the_order_decides_about_the_order():
    w = world(0)
    plain, bent = verdict(w.teacher), verdict(np.arctan(w.teacher))
    assert (plain.answers, plain.agreements, plain.lengths) == (bent.answers, bent.agreements, bent.lengths)


def test_the_order_of_the_queries_changes_nothing():
    w = world(0)
    labels, facts = w.facts(w.teacher)
    turned = labels.select(labels.query_ids[::-1])
    one = audit(labels, flags=facts["flags"], others=facts["others"])
    other = audit(turned, flags=facts["flags"], others=facts["others"])
    assert one.reasons == other.reasons
    assert one.quantiles == other.quantiles


@pytest.mark.parametrize(
    ("low", "high", "queries", "side"),
    [
        (0.01, 0.20, 100, "up"),
        (0.01, 0.04, 100, "barely"),
        (-0.04, 0.04, 100, "none"),
        (-0.04, -0.01, 100, "none"),
        (-0.20, -0.01, 100, "down"),
        (-0.20, 0.04, 100, "unknown"),
        (0.10, 0.20, 29, "unknown"),
        (np.nan, np.nan, 100, "unknown"),
    ],
)
def test_an_interval_lies_on_one_side_or_is_close_to_neutral_or_says_nothing(low, high, queries, side):
    assert direction(Estimate((low + high) / 2, low, high, queries), 0.0, 0.05) == side


def test_the_corpus_and_the_queries_give_the_same_audit_as_their_facts():
    rng = np.random.default_rng(3)
    corpus = Corpus.from_passages(Passage(f"p{i}", "", "snow " * int(1 + i % 5) + "fire" * (i % 3 == 0)) for i in range(40))
    queries = [Query(f"q{i}", "?", ("fire",) if i % 2 else ()) for i in range(40)]
    rows = [rng.permutation(40)[:8] for _ in queries]
    scores = [2.0 * (row % 3 == 0) + rng.standard_normal(8) for row in rows]
    labels = Run.build("teacher", [query.id for query in queries], rows, scores)
    facts = {"flags": answer_flags(labels, corpus, queries=queries), "lengths": passage_lengths(labels, corpus)}
    found = audit_labels(labels, corpus, queries=queries, temperature=0.5)
    assert found.plain() == audit(labels, **facts, temperature=0.5).plain()
    assert found.answers.queries == 20


def test_an_audit_is_json_with_a_record_for_each_query():
    found = verdict(world(0).teacher)
    values = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert values["shapes"][7]["query"] == "q7"
    assert values["shapes"][7]["effective"] == found.shapes.effective[7]
    assert values["answers"]["orders"][0]["above"]["mean"] == found.answers.orders[0].above.mean
    assert "shapes" not in found.plain(per_query=False)


def test_the_lines_and_the_tables_say_every_reason_and_the_verdict():
    for scores in (world(0).teacher, SABOTAGE["squashed"](world(0)), SABOTAGE["constant"](world(0))):
        found = verdict(scores)
        assert lines(found)[0] == f"teacher: {found.verdict}"
        said = tables(found)
        assert found.verdict in said[0].title
        for reason in found.reasons:
            assert any(reason.text in line for line in lines(found))
            assert (reason.name, reason.gravity, reason.text) in said[0].rows
        assert all(len(row) == len(table.columns) for table in said for row in table.rows)


def test_facts_that_do_not_fit_and_names_that_clash_are_refused():
    w = world(0, queries=3)
    labels = w.run(w.teacher)
    with pytest.raises(ValueError, match="found 5 lengths, expected one for each of the 60 candidates"):
        audit(labels, lengths=np.arange(5))
    with pytest.raises(ValueError, match="expected different names"):
        audit(labels, others=[labels])
    with pytest.raises(ValueError, match="aim"):
        audit(labels, aim=0.0)
    with pytest.raises(ValueError, match="answer flags"):
        audit(labels, flags={"q0": np.array([True])})
