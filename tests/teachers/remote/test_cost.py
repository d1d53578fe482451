"""Counts on disk: complete at every moment, counted on by the next process, and of any number of threads."""

import json
from concurrent.futures import ThreadPoolExecutor

from retort.teachers.remote.cost import BYTES, Cost, Ledger

MOST = 10**15


def test_each_count_is_on_disk_before_the_next_and_another_ledger_goes_on(tmp_path):
    path = tmp_path / "parts" / "asked-0.json"
    one = Ledger(path)
    for number in range(1, 4):
        one.add(Cost(requests=1, prompt_tokens=90, seconds=0.5))
        assert Cost.read(path) == Cost(requests=number, prompt_tokens=90 * number, seconds=number / 2)
    two = Ledger(path)  # the first was killed: nobody closed it
    two.add(Cost(retries=1))
    assert Cost.read(path) == Cost(requests=3, retries=1, prompt_tokens=270, seconds=1.5)


def test_a_ledger_that_a_kill_left_empty_begins_at_nothing(tmp_path):
    (tmp_path / "asked.json").touch()
    assert Ledger(tmp_path / "asked.json").cost == Cost()


def test_the_file_never_grows_so_that_a_shorter_count_leaves_no_rest_behind(tmp_path):
    ledger = Ledger(tmp_path / "asked.json")
    ledger.add(Cost(MOST, MOST, MOST, MOST, MOST, 1 / 3 * MOST))
    assert (tmp_path / "asked.json").stat().st_size == BYTES
    assert json.loads((tmp_path / "asked.json").read_text())["requests"] == MOST


def test_threads_lose_no_count(tmp_path):
    ledger = Ledger(tmp_path / "asked.json")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(ledger.add, Cost(requests=1))
    assert Cost.read(tmp_path / "asked.json").requests == 400
