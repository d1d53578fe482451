"""Pickled scores read as data: the same as unpickled, and nothing of a file is ever run."""

import collections
import gzip
import pickle
import tracemalloc

import numpy as np
import pytest

from malicious import Malicious
from retort.data.pickled_scores import pickled_scores

SCORES = {
    1185869: {0: 8.5, 255: -1.25, 256: 0.0, 65536: -11.0, -3: 1e300},
    7: {},
    2**40: {2**31: 0.1, 70000: 3},
}
NAMED = {"q1": {"p1": 0.5, "p2": 1.5}, "q2": {"p1": -0.5, "p" * 300: 2.0}}


def written(path, value, **options):
    path.write_bytes(pickle.dumps(value, **options))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("scores", [SCORES, NAMED], ids=["numbers", "strings"])
def test_scores_are_what_pickle_itself_reads(tmp_path, scores, protocol):
    path = written(tmp_path / "s.pkl", scores, protocol=protocol)
    assert list(pickled_scores(path)) == list(pickle.loads(path.read_bytes()).items())


def test_more_scores_than_pickle_writes_at_once_are_all_there(tmp_path):
    rng = np.random.default_rng(0)
    scores = {query: dict(enumerate(rng.standard_normal(3).tolist())) for query in range(2500)}
    scores[9999] = {int(row): float(row) for row in rng.permutation(130_000)[:2500]}  # keys of 1, 2 and 4 bytes
    assert dict(pickled_scores(written(tmp_path / "s.pkl", scores))) == scores


def test_a_packed_pickle_is_read_whatever_its_name(tmp_path):
    (tmp_path / "scores").write_bytes(gzip.compress(pickle.dumps(SCORES)))
    assert dict(pickled_scores(tmp_path / "scores")) == SCORES


def test_the_file_is_never_whole_in_memory(tmp_path):
    scores = {query: dict.fromkeys(range(100_000, 100_040), 0.5) for query in range(2_500)}
    path = written(tmp_path / "s.pkl", {q: dict(s) for q, s in scores.items()})
    del scores
    tracemalloc.start()
    assert sum(len(found) for _, found in pickled_scores(path)) == 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # whole it is 10 MB


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_never_run(tmp_path, protocol):
    victim = tmp_path / "was-run"
    command = f"touch {victim}"
    for place, value in enumerate([Malicious(command), {1: Malicious(command)}, {1: {2: Malicious(command)}}]):
        path = written(tmp_path / f"{place}.pkl", value, protocol=protocol)
        with pytest.raises(ValueError, match=r"pkl: the opcode \w+ at byte \d+, expected a dict of dicts .* can run code"):
            list(pickled_scores(path))
        assert not victim.exists()
    pickle.loads(path.read_bytes())  # the same file is dangerous
    assert victim.exists()


@pytest.mark.parametrize(
    "value",
    [
        {1: [0.5]},
        {1: {2: np.float32(0.5)}},
        {1: {2: np.array([0.5])}},
        {1: {2: None}},
        {1: {2: True}},
        {1: {(2, 3): 0.5}},
        {1: collections.OrderedDict({2: 0.5})},
        [{1: {2: 0.5}}],
    ],
    ids=repr,
)
def test_other_objects_are_refused_by_their_opcode(tmp_path, value):
    with pytest.raises(ValueError, match=r"the opcode \w+ at byte"):
        list(pickled_scores(written(tmp_path / "s.pkl", value)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: 0.5}, "no dict as a value"),
        ({1: {2: "0.5"}}, "no number as a value"),
        ({1: {2: {3: 0.5}}}, "no number as a value"),
        ({0.5: {2: 0.5}}, "a key that is neither a number nor a string"),
        (0.5, "the value"),
        ("text", "the value"),
    ],
    ids=str,
)
def test_another_shape_is_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        list(pickled_scores(written(tmp_path / "s.pkl", value)))


def test_a_dict_that_is_there_twice_is_refused_and_not_guessed(tmp_path):
    shared = {2: 0.5}
    with pytest.raises(ValueError, match="the opcode BINGET"):
        list(pickled_scores(written(tmp_path / "s.pkl", {1: shared, 3: shared})))


@pytest.mark.parametrize("length", [1, 5, 17, 40])
def test_a_file_that_breaks_off_is_refused(tmp_path, length):
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(SCORES)[:length])
    with pytest.raises(ValueError, match="breaks off at byte"):
        list(pickled_scores(tmp_path / "s.pkl"))


@pytest.mark.parametrize(
    "code", [b"\x80\x04u.", b"\x80\x04(u.", b"\x80\x04K\x01K\x02s.", b"\x80\x04.", b"\x80\x04}(K\x01u."]
)
def test_a_pickle_that_no_pickler_wrote_is_refused(tmp_path, code):
    (tmp_path / "s.pkl").write_bytes(code)
    with pytest.raises(ValueError, match="expected a dict of dicts of plain numbers"):
        list(pickled_scores(tmp_path / "s.pkl"))
