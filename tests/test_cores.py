import pytest

from retort.cores import crowding, others_at_work


@pytest.mark.parametrize("fitting", [(1, 1, 1), (2, 1, 2), (2, 4, 8)])
def test_threads_that_fit_the_cores_are_no_trouble(fitting):
    assert crowding(*fitting) is None


def test_more_threads_than_cores_come_with_the_number_that_fits():
    assert "set OMP_NUM_THREADS=4" in str(crowding(2, 8, 8))
    assert "start 2 processes at most" in str(crowding(3, 1, 2))


@pytest.mark.parametrize(("busy", "said"), [(20, None), (150, "leave 0.5 cores free, and this wants 2")])
def test_other_programs_at_work_are_noticed(busy, said, monkeypatch, tmp_path):
    """Of 200 ticks of two cores, so many are other programs'."""
    stat = tmp_path / "stat"
    stat.write_text("cpu 0 0 0 1000 0 0 0 0 0 0\n")
    monkeypatch.setattr("retort.cores.CPU_TIMES", stat)
    monkeypatch.setattr("retort.cores.usable", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("time.sleep", lambda _: stat.write_text(f"cpu {busy} 0 0 {1200 - busy} 0 0 0 0 0 0\n"))
    trouble = others_at_work()
    assert trouble is None if said is None else said in str(trouble)


def test_a_machine_that_counts_no_ticks_has_no_others_at_work(monkeypatch, tmp_path):
    monkeypatch.setattr("retort.cores.CPU_TIMES", tmp_path / "none")
    assert others_at_work() is None
