import sys

import corpus_growth
import pytest
from corpus_growth import STAGES, Taken

from retort.config import Config
from retort.data import read_corpus, read_queries


def test_memory_and_time_are_judged_between_the_smallest_and_the_largest_corpus():
    small = {stage: Taken(seconds=1.0, peak=512, own=100) for stage in STAGES}
    large = {stage: Taken(seconds=12.0 if stage == "encode" else 10.0, peak=2048, own=110) for stage in STAGES}
    large["index"] = Taken(seconds=10.0, peak=5120, own=400)
    found = corpus_growth.facts({100: small, 1000: large})
    verdicts = {one["what"]: (one["measured"], one["verdict"]) for one in found["targets"]}
    assert verdicts["memory: peak of any stage"] == (5, "falls short")
    assert verdicts["index: memory beyond mapped files, largest corpus"] == (4, "falls short")
    assert verdicts["label: memory beyond mapped files, largest corpus"] == (1.1, "pass")
    assert verdicts["encode: time a passage, largest corpus"] == (1.2, "falls short")
    assert verdicts["prepare: time a passage, largest corpus"] == (1, "pass")


def test_the_invented_corpus_and_its_config_are_what_retort_reads(tmp_path):
    settings = corpus_growth.settings(tmp_path, 25, tmp_path / "model")
    config = Config.model_validate(settings)
    passages = list(read_corpus(config.prepare.corpus))
    assert len({passage.id for passage in passages}) == 25
    assert all(10 <= len(passage.text.split()) < 30 for passage in passages)
    asked = {split: read_queries(source, require_answers=True) for split, source in config.prepare.queries.items()}
    assert len({query.id for queries in asked.values() for query in queries}) == 3 * corpus_growth.QUESTIONS


def test_the_peak_of_a_command_holds_what_it_held_and_its_failure_is_told():
    hold = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(0.3)"
    peak, own = corpus_growth.watched([sys.executable, "-c", hold])
    assert peak > own > 190
    with pytest.raises(RuntimeError, match="no such thing"):
        corpus_growth.watched([sys.executable, "-c", "raise SystemExit('no such thing')"])
