"""How a round's search keeps up with its student, by each policy: what stays, what is encoded, what is found."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator

from retort import refreshing
from retort.config import Config, load
from retort.indexes.vectors import VectorParts
from retort.job import Job
from retort.pipeline import run
from retort.plan import plan
from retort.prepared import Prepared
from retort.records import Query, Run
from retort.refreshing import PRECISION, overlap, search_student
from retort.searching import student_of
from retort.store import MANIFEST, read_json, remove, write_parts
from tiny_run import PASSAGES, config, searched, tree

FAR = {"optimiser": {"learning_rate": 0.03, "warmup_steps": 1}}  # far enough to find other passages
DEPTH, LESS, PROBED = 6, 8, 3  # of a Run; passages to re-rank, few enough that old vectors decide which; of the probe
SEARCHED = ["round-1/encode", "round-1/index", "round-1/retrieve"]


def chosen(sources: Path, *, rounds: int = 2, student=None, **encode) -> Config:
    """A run without a reader, whose students move far in their few steps."""
    return config(
        sources, rounds=rounds, label={"teachers": [{"kind": "bm25"}]}, distil={**FAR, "student": student or {}},
        retrieve={"depth": DEPTH, "later": ["student"]}, encode={"passages_per_part": 5, "probe_depth": PROBED, **encode},
    )  # fmt: skip


def changed(run_of: Path, folder: Path, settings: Config, only: list[str] | None = None) -> Path:
    """The run in `run_of` once more with other settings; what they leave alone is not done again."""
    root = Path(shutil.copytree(run_of, folder / "run"))
    run(settings, root, only=only)
    return root


def facts(root: Path, number: int) -> dict:
    return read_json(root / f"round-{number}/encode" / MANIFEST)


def vectors(root: Path, number: int) -> np.ndarray:
    return VectorParts.open(root / f"round-{number}/encode/parts").take(np.arange(PASSAGES))


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def asked(root: Path, number: int, queries: list[Query]) -> np.ndarray:
    steps = plan(load(root / "config.json"), root)
    return student_of(Job(steps, Accelerator(cpu=True)), number).embed(queries, "query")  # type: ignore[return-value]


def by_hand(
    questions: np.ndarray, old: np.ndarray, fresh: np.ndarray, depth: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each question the first `depth` rows by the old vectors, and the same rows in the order of the fresh ones."""
    found = [np.argsort(-(old @ question), kind="stable")[:depth] for question in questions]
    ranked = [rows[np.argsort(-(fresh[rows] @ one), kind="stable")] for rows, one in zip(found, questions, strict=True)]
    return found, ranked


@pytest.fixture(scope="module")
def full(sources, tmp_path_factory) -> Path:
    """The policy of always: every round encodes the whole corpus."""
    root = tmp_path_factory.mktemp("full") / "run"
    run(chosen(sources), root)
    return root


@pytest.fixture(scope="module")
def reranked(full, sources, tmp_path_factory) -> Path:
    return changed(full, tmp_path_factory.mktemp("reranked"), chosen(sources, refresh="rerank", rerank_depth=LESS))


# --- re-ranking


def test_re_ranking_the_whole_corpus_is_encoding_it_anew(full, sources, tmp_path):
    """Down to the second round's student, which learns from what the first one found."""
    root = changed(full, tmp_path, chosen(sources, refresh="rerank", rerank_depth=PASSAGES))
    for number in (1, 2):
        one, two = (Run.read(place / f"round-{number}/retrieve/student.parquet") for place in (full, root))
        assert two.passages.tolist() == one.passages.tolist()
        np.testing.assert_allclose(two.scores, one.scores, rtol=1e-5)
        assert bytes_in(root / f"round-{number}/encode/fresh/parts") == bytes_in(full / f"round-{number}/encode/parts")
        for file in ("retrieve/candidates.parquet", "label/labels.parquet", "distil/model/model.safetensors"):
            assert (root / f"round-{number}" / file).read_bytes() == (full / f"round-{number}" / file).read_bytes()


def test_the_run_is_the_first_that_old_vectors_find_in_the_order_of_fresh_ones(full, reranked):
    queries = Prepared(full / "prepare").queries
    _, expected = by_hand(asked(full, 1, queries), vectors(full, 0), vectors(full, 1), LESS)
    found = Run.read(reranked / "round-1/retrieve/student.parquet")
    whole = Run.read(full / "round-1/retrieve/student.parquet")
    assert [rows.tolist() for _, rows, _ in found] == [rows[:DEPTH].tolist() for rows in expected]
    assert any(set(rows.tolist()) != set(whole.of(query)[0].tolist()) for query, rows, _ in found)  # what it can miss


def test_old_vectors_stay_round_after_round_and_it_is_known_whose_they_are(reranked, full):
    for number in (1, 2):
        assert bytes_in(reranked / f"round-{number}/encode/parts") == bytes_in(full / "round-0/encode/parts")
        assert facts(reranked, number)["vectors of round"] == 0
    assert facts(full, 2)["vectors of round"] == 2


def test_a_round_that_re_ranks_keeps_the_vectors_of_a_round_that_encoded_anew(full, sources, tmp_path):
    later = {2: {"encode": {"refresh": "rerank", "rerank_depth": LESS}}}
    root = changed(full, tmp_path, chosen(sources).model_copy(update={"overrides": later}), ["round-2/encode"])
    assert facts(root, 2)["vectors of round"] == 1
    assert bytes_in(root / "round-2/encode/parts") == bytes_in(full / "round-1/encode/parts")
    found, _ = by_hand(asked(full, 2, Prepared(full / "prepare").queries), vectors(full, 1), vectors(full, 2), LESS)
    assert np.load(root / "round-2/encode/fresh/rows.npy").tolist() == sorted({row for one in found for row in one.tolist()})


def test_only_what_is_found_is_encoded(reranked, full):
    found, _ = by_hand(asked(full, 1, Prepared(full / "prepare").queries), vectors(full, 0), vectors(full, 1), LESS)
    rows = np.load(reranked / "round-1/encode/fresh/rows.npy")
    assert rows.tolist() == sorted({row for one in found for row in one.tolist()})
    assert facts(reranked, 1)["items"] == len(rows) < PASSAGES
    fresh = VectorParts.open(reranked / "round-1/encode/fresh/parts").take(np.arange(len(rows)))
    np.testing.assert_allclose(fresh, vectors(full, 1)[rows], atol=2e-3)  # half precision


@pytest.mark.parametrize(
    "student", [{"kind": "sparse"}, {"kind": "late_interaction", "dimension": 8}], ids=lambda one: one["kind"]
)
def test_every_kind_of_student_is_re_ranked(student, sources, tmp_path):
    settings = chosen(sources, rounds=1, student=student)
    steps = [name for name in plan(settings, tmp_path) if not name.endswith(("evaluate", "report"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heads that are made, sparse vectors that are not trained yet
        run(settings, tmp_path / "full", only=steps)
        again = chosen(sources, rounds=1, student=student, refresh="rerank", rerank_depth=PASSAGES)
        root = changed(tmp_path / "full", tmp_path, again, SEARCHED)
    one, two = (Run.read(place / "round-1/retrieve/student.parquet") for place in (tmp_path / "full", root))
    assert two.passages.tolist() == one.passages.tolist()
    np.testing.assert_allclose(two.scores, one.scores, rtol=1e-3)
    assert facts(root, 1)["vectors of round"] == 0


# --- searching


def test_the_index_of_old_vectors_is_theirs(reranked):
    assert (reranked / "round-1/index/index.json").read_bytes() == (reranked / "round-0/index/index.json").read_bytes()


def test_vectors_of_two_precisions_never_stand_in_one_folder(copied, sources):
    remove(copied / "round-1" / "encode")
    chosen = config(sources)
    steps = plan(chosen, copied)
    (steps["round-1/encode"].folder.open() / PRECISION).write_text('"bfloat16"')
    with pytest.raises(ValueError, match=r"was begun in bfloat16, and this computes in float32: set compute\.precision"):
        run(chosen, copied, only=["round-1/encode"])


def test_a_search_in_old_vectors_ranks_by_fresh_ones_whether_they_are_stored_or_not(reranked, full, tmp_path):
    root = Path(shutil.copytree(reranked, tmp_path / "run"))
    job = Job(plan(load(root / "config.json"), root), Accelerator(cpu=True))
    query = Query("new", "who is the man of the red ship")
    _, (expected,) = by_hand(asked(full, 1, [query]), vectors(full, 0), vectors(full, 1), LESS)
    assert search_student(job, 1, [query], 5).passages.tolist() == expected[:5].tolist()
    remove(root / "round-1/encode/fresh")
    assert search_student(job, 1, [query], 5).passages.tolist() == expected[:5].tolist()
    assert len(search_student(job, 1, [query], 20).passages) == 20  # more than are ranked anew otherwise


def test_the_command_finds_what_the_run_found(reranked):
    hits, ids, scores = searched(reranked)
    assert [hit["id"] for hit in hits] == ids
    assert [hit["score"] for hit in hits] == pytest.approx(scores, abs=1e-4)


# --- measuring staleness


def test_an_overlap_counts_what_stays_and_nothing_where_nothing_was_found():
    lists = [np.array([1, 2, 3, 4]), np.array([], np.int32)]
    assert overlap(lists, [np.array([9, 4, 3, 2]), np.array([5])]) == 0.75 / 2
    assert overlap(lists[:1], lists[:1]) == 1.0


def test_the_overlap_is_of_the_dev_questions_and_no_less_than_with_the_whole_corpus(reranked, full):
    queries = Prepared(full / "prepare").splits["dev"]
    found, ranked = by_hand(asked(full, 1, queries), vectors(full, 0), vectors(full, 1), LESS)
    measured = facts(reranked, 1)["overlap@3"]
    assert measured == pytest.approx(overlap([one[:3] for one in found], [one[:3] for one in ranked]))
    _, best = by_hand(asked(full, 1, queries), vectors(full, 0), vectors(full, 1), PASSAGES)
    assert overlap([one[:3] for one in found], [one[:3] for one in best]) <= measured < 1.0


@pytest.mark.parametrize(("below", "policy"), [(0.0, "rerank"), (1.01, "full")])
def test_auto_does_what_the_overlap_says(below, policy, full, reranked, sources, tmp_path):
    settings = chosen(sources, refresh="auto", rerank_depth=LESS, stale_below=below)
    root, same = changed(full, tmp_path, settings, SEARCHED), {"full": full, "rerank": reranked}[policy]
    assert facts(root, 1)["refresh"] == policy
    assert facts(root, 1)["vectors of round"] == facts(same, 1)["vectors of round"]
    assert facts(root, 1)["overlap@3"] == pytest.approx(facts(reranked, 1)["overlap@3"])
    assert bytes_in(root / "round-1/encode/parts") == bytes_in(same / "round-1/encode/parts")
    for file in ("student.parquet", "candidates.parquet"):
        assert (root / "round-1/retrieve" / file).read_bytes() == (same / "round-1/retrieve" / file).read_bytes()


def test_the_report_says_what_each_round_did(reranked):
    tables = {table["title"]: table for table in read_json(reranked / "report" / "report.json")["tables"]}
    found = tables["Freshness of the search"]
    assert found["columns"] == ["round", "refresh", "vectors of round", "overlap@3"]
    assert found["rows"] == [[n, "rerank", 0, facts(reranked, n)["overlap@3"]] for n in (1, 2)]


# --- going on after a kill


class KilledError(Exception):
    pass


def dying(*arguments):
    raise KilledError


def half(folder, total, write, **named):
    """The first part is written, and no other."""
    assert total > 1
    return write_parts(folder, total, lambda part, path: write(part, path) if part == 0 else dying(), **named)


@pytest.mark.parametrize(("place", "death"), [("write_parts", half), ("_write_rows", dying)])
def test_a_killed_encoding_goes_on_to_the_same_bytes_and_asks_once(place, death, full, sources, tmp_path, monkeypatch):
    settings = chosen(sources, refresh="auto", rerank_depth=LESS, stale_below=0.0)
    whole = changed(full, tmp_path / "whole", settings, SEARCHED[:1])
    killed, probes, staleness = Path(shutil.copytree(full, tmp_path / "killed")), [], refreshing._staleness

    def counting(*arguments):
        probes.append(arguments)
        return staleness(*arguments)

    monkeypatch.setattr(refreshing, "_staleness", counting)
    with monkeypatch.context() as patched:
        patched.setattr(refreshing, place, death)
        with pytest.raises(KilledError):
            run(settings, killed, only=SEARCHED[:1])
    run(settings, killed, only=SEARCHED[:1])
    assert len(probes) == 1
    assert tree(killed / "round-1/encode") == tree(whole / "round-1/encode")
