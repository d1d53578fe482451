import pytest

from retort.cores import others_at_work


@pytest.mark.parametrize(("busy", "said"), [(20, None), (150, "leave 0.5 cores free, and this wants 2")])
def test_other_programs_at_work_are_noticed(busy, said, monkeypatch, tmp_path):
    """Of 200 ticks of two cores, so many are other programs'."""
    stat = tmp_path / "stat"
    stat.write_text("cpu0 0 0 0 500 0 0 0 0 0 0\ncpu1 0 0 0 500 0 0 0 0 0 0\n")
    monkeypatch.setattr("retort.cores.CPU_TIMES", stat)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    later = f"cpu0 {busy // 2} 0 0 {600 - busy // 2} 0 0 0 0 0 0\ncpu1 {busy // 2} 0 0 {600 - busy // 2} 0 0 0 0 0 0\n"
    monkeypatch.setattr("time.sleep", lambda _: stat.write_text(later))
    trouble = others_at_work()
    assert trouble is None if said is None else said in str(trouble)


def test_a_machine_that_counts_no_ticks_has_no_others_at_work(monkeypatch, tmp_path):
    monkeypatch.setattr("retort.cores.CPU_TIMES", tmp_path / "none")
    assert others_at_work() is None
    (tmp_path / "none").write_text("cpu0 0 0 0 0 0 0 0 0 0 0\n")  # gVisor's
    assert others_at_work() is None
