import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from retort.data.docstrings import QUESTIONS, passages, qrels, questions
from retort.text import has_answer

SMALL = "json,textwrap,shutil,threading"
LOCAL = "stdlib,numpy,scipy"  # a second to import; torch and transformers wait for `make bench`


@pytest.fixture(scope="module")
def rows():
    return [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[1:]]


def of(row, packages):
    """The accepted names of a row of the table that belong to `packages`."""
    others = {"numpy", "scipy", "torch", "transformers"} - set(packages)
    return [name for name in row[1].split() if name.partition(".")[0] not in others]


def test_every_passage_holds_the_name_of_its_object_in_its_text():
    for passage in passages("stdlib"):
        bare = passage.title.rpartition(".")[2]
        assert passage.text.startswith(passage.title)
        assert has_answer([bare], passage.text)
        assert has_answer([passage.title], passage.text)


def test_passages_are_numbered_within_their_object_and_unique():
    found = list(passages(SMALL))
    numbers = Counter(passage.title for passage in found)
    assert [p.id for p in found] == [f"{name}#{i}" for name, count in numbers.items() for i in range(count)]


def test_passages_have_about_a_hundred_words():
    lengths = [len(passage.text.split()) for passage in passages("stdlib")]
    assert 40 < sum(lengths) / len(lengths) < 100
    assert sorted(lengths)[-len(lengths) // 100] < 135


def test_words_set_the_length_of_passages():
    bodies = [passage.text.partition(": ")[2] for passage in passages(SMALL + ";words=30")]
    assert max(len(body.split()) for body in bodies) <= 40
    assert len(bodies) > len(list(passages(SMALL)))


def test_a_summary_that_is_a_question_is_in_no_passage():
    texts = " ".join(passage.text.lower() for passage in passages(SMALL))
    asked = questions(SMALL, "train") + questions(SMALL, "dev")
    assert asked
    assert [query.text for query in asked if query.text.lower() in texts] == []


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_no_question_gives_its_answer_away(split):
    assert [query for query in questions(LOCAL, split) if has_answer(query.answers, query.text)] == []


def test_summaries_answer_with_the_bare_and_the_qualified_name():
    query = next(query for query in questions(SMALL) if query.id == "shutil.copytree")
    assert query.text == "Recursively copy a directory tree and return the destination directory"
    assert query.answers == ("copytree", "shutil.copytree")


def test_everyday_words_are_no_answers():
    answers = {answer for query in questions(LOCAL) for answer in query.answers}
    assert "numpy.stack" in answers
    assert not {"stack", "copy", "get", "wait"} & answers


def test_no_object_of_a_test_question_is_trained_on(rows):
    accepted = {name for row in rows for name in row[1].split()}
    assert accepted.isdisjoint(query.id for query in questions(LOCAL, "train"))


def test_splits_are_disjoint_and_together_everything():
    parts = [questions(SMALL, split) for split in ("train", "dev", "test")]
    assert [query for part in parts for query in part] == questions(SMALL)
    assert len({query.id for query in questions(SMALL)}) == len(questions(SMALL))


def test_qrels_grade_all_passages_of_every_accepted_object():
    ids = [passage.id for passage in passages(SMALL)]
    grades = qrels(SMALL, "test").grades
    assert len(grades) > 5
    for query in questions(SMALL, "test"):
        assert grades[query.id] == {i: 1 for i in ids if i.partition("#")[0] in query.answers}


def test_qrels_have_the_questions_of_their_split_and_only_passages_of_the_corpus():
    ids = {passage.id for passage in passages(SMALL)}
    for split in (None, "train", "dev", "test"):
        grades = qrels(SMALL, split).grades
        assert list(grades) == [query.id for query in questions(SMALL, split)]
        assert all(found and found.keys() <= ids for found in grades.values())


def test_at_least_160_questions_were_written_and_none_twice(rows):
    assert len({text.lower() for text, _ in rows}) == len(rows) >= 160
    assert all(len(set(names.split())) == len(names.split()) >= 1 for _, names in rows)
    assert "how do I find the position of the largest element" in [text for text, _ in rows]


def test_every_written_question_of_these_packages_has_an_object_in_the_corpus(rows):
    expected = [text for text, names in rows if of((text, names), LOCAL.split(","))]
    assert [query.text for query in questions(LOCAL, "test")] == expected


@pytest.mark.slow
def test_every_written_question_has_an_object_in_the_default_corpus(rows):
    assert [query.text for query in questions("", "test")] == [text for text, _ in rows]


def test_a_question_without_an_object_in_the_corpus_is_left_out():
    assert {name for query in questions("json", "test") for name in query.answers} >= {"json.dumps"}
    assert len(questions("json", "test")) < 5


def test_limit_counts_objects_and_keeps_those_of_the_test_questions():
    full = {passage.title for passage in passages("stdlib")}
    few = {passage.title for passage in passages("stdlib;limit=1")}
    some = {passage.title for passage in passages("stdlib;limit=500")}
    assert few < some < full
    assert len(some) == 500
    assert questions("stdlib;limit=1", "test") == questions("stdlib", "test")


def test_two_processes_with_different_hash_seeds_give_the_same_bytes():
    code = (
        "import hashlib; from retort.data.docstrings import passages, questions, qrels; "
        f"s = {SMALL + ',inspect,logging'!r}; "
        "print(hashlib.sha1(repr((list(passages(s)), questions(s), qrels(s))).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    spec = SMALL + ",inspect,logging"
    here = hashlib.sha1(repr((list(passages(spec)), questions(spec), qrels(spec))).encode()).hexdigest()
    assert runs == [here, here]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("json,nosuchpackage", "'nosuchpackage' is not installed"),
        ("json,", "'' is not installed"),
        ("json;limit=0", "'limit=0'"),
        ("json;words=many", "'words=many'"),
        ("json;depth=3", "'depth=3'"),
    ],
)
def test_a_wrong_spec_says_which_part_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        questions(spec)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'validation' is unknown: expected one of train, dev, test"):
        questions("json", "validation")
