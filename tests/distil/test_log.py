import pytest

from retort.distil.log import StepLog


def test_truncation_drops_later_steps_and_half_a_line(tmp_path):
    log = StepLog(tmp_path / "log.jsonl", active=True)
    for step in (1, 2, 3):
        log.add(step, {"loss": 1 / step})
    before = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(before) + b'{"step": 4, "lo')
    log.truncate(2)
    assert log.path.read_bytes() == b"".join(before[:2])


def test_only_the_active_process_writes(tmp_path):
    StepLog(tmp_path / "log.jsonl", active=False).add(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_value_that_is_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        StepLog(tmp_path / "log.jsonl", active=True).add(1, {"loss": float("nan")})
