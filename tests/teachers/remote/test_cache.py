"""Answers on disk: found again after a kill, by one writer a file, and never half of one."""

import os
import signal

import pytest

from retort.store import FullDiskError
from retort.teachers.remote.cache import AnswerCache


def test_answers_are_found_again(tmp_path):
    cache = AnswerCache(tmp_path / "new")
    cache["a"], cache["b"] = {"choices": ["é\n"]}, {"choices": [2]}
    cache.close()
    again = AnswerCache(tmp_path / "new")
    assert (len(again), again["a"], again["b"], "c" in again) == (2, {"choices": ["é\n"]}, {"choices": [2]}, False)


def test_an_answer_given_again_counts_from_then_on(tmp_path):
    cache = AnswerCache(tmp_path)
    cache["a"] = {"n": 1}
    cache["a"] = {"n": 2}
    assert cache["a"] == {"n": 2}
    cache.close()
    assert AnswerCache(tmp_path)["a"] == {"n": 2}


def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path):
    cache = AnswerCache(tmp_path)
    cache["a"], cache["b"] = {"n": 1}, {"n": 2}
    cache.close()
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    cache = AnswerCache(tmp_path)
    assert ("a" in cache, "b" in cache) == (True, False)
    cache["c"] = {"n": 3}
    cache.close()
    assert AnswerCache(tmp_path)["c"] == {"n": 3}


def test_what_was_answered_survives_a_kill(tmp_path):
    child = os.fork()
    if not child:
        cache = AnswerCache(tmp_path)
        for number in range(50):
            cache[str(number)] = {"n": number}
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    cache = AnswerCache(tmp_path)  # the dead process holds no lock
    assert [cache[str(number)]["n"] for number in range(50)] == list(range(50))


def test_two_processes_do_not_write_one_file_but_read_both(tmp_path):
    first = AnswerCache(tmp_path)
    first["a"] = {"n": 1}
    with pytest.raises(BlockingIOError, match=r"answers-0.jsonl: wait for it"):
        AnswerCache(tmp_path)
    second = AnswerCache(tmp_path, writer=1)
    second["b"] = {"n": 2}
    first.close()
    second.close()
    assert AnswerCache(tmp_path)["b"] == {"n": 2}
    assert AnswerCache(tmp_path, writer=2)["a"] == {"n": 1}


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"key": "x"'])
def test_a_broken_line_in_the_middle_is_named(line, tmp_path):
    (tmp_path / "answers-0.jsonl").write_text('{"key": "a", "answer": {}}\n' + line + '\n{"key": "b", "answer": {}}\n')
    with pytest.raises(ValueError, match=r"answers-0.jsonl:2: no answer"):
        AnswerCache(tmp_path)


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    cache, write = AnswerCache(tmp_path), os.write
    cache["a"] = {"n": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: write(file, line[:9]))
        with pytest.raises(FullDiskError, match="no space left"):
            cache["b"] = {"n": 2}
    cache["c"] = {"n": 3}
    cache.close()
    again = AnswerCache(tmp_path)
    assert ("b" in again, again["c"]) == (False, {"n": 3})
