import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from retort import store
from retort.store import (
    FULL_BYTES,
    StageFolder,
    StepLog,
    disk_watched,
    key_of,
    locked,
    read_json,
    remove,
    restored,
    write_atomic,
    write_json,
    write_parts,
)


def tree(folder):
    """Every file below `folder` with its text; hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(code, *arguments):
    """The exit code of a process that runs `code`; it knows `Path`, `os`, `sys` and everything in store."""
    lines = [
        "import os, sys, signal",
        "from pathlib import Path",
        "from retort import store",
        "from retort.store import *",
        code,
    ]
    return subprocess.run([sys.executable, "-c", "\n".join(lines), *map(str, arguments)], check=False).returncode


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


# ---- keys


def test_a_key_is_16_hex_digits_that_do_not_depend_on_the_order_of_settings():
    key = key_of({"a": 1, "b": {"c": 2, "d": 3}}, ["x"], 1)
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")
    assert key == key_of({"b": {"d": 3, "c": 2}, "a": 1}, ["x"], 1)


def test_a_key_changes_with_any_setting_input_or_version():
    base = {"a": {"b": 1}}, ["x", "y"], 1
    others = [
        ({"a": {"b": 2}}, *base[1:]),
        (base[0], ["y", "x"], 1),
        (base[0], ["x"], 1),
        (base[0], ["xy"], 1),
        (*base[:2], 2),
    ]
    assert len({key_of(*each) for each in (base, *others)}) == 6


# ---- atomic writes


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with write_atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # on the same disk, so that a rename is enough
    assert tree(tmp_path) == {"deep/a.txt": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with write_atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert tree(tmp_path) == {"a.txt": "old"}


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")

    def write():
        with write_atomic(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert tree(tmp_path) == {"model/a": "old"}


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    for names in (["a", "b"], ["b", "c"]):
        with write_atomic(tmp_path / "model") as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(str(names))
    assert tree(tmp_path) == {f"model/{name}": "['b', 'c']" for name in "bc"}


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = f"with write_atomic(Path(sys.argv[1])) as path:\n    path.write_text('half'); {KILL}"
    assert run(code, tmp_path / "a.txt") == -9
    assert (tmp_path / "a.txt").read_text() == "old"
    with write_atomic(tmp_path / "a.txt") as temporary:
        assert not temporary.exists()  # the half of the killed process is gone
        temporary.write_text("new")
    assert tree(tmp_path) == {"a.txt": "new"}


# Where a process dies that replaces a folder, and which of the two it leaves
DEATHS = {
    f"Path.rename = lambda *paths: {KILL}": "old",  # nothing has moved
    f"os.replace = lambda *paths: {KILL}": "old",  # the old one stands aside, the new one is not yet in its place
    f"store.restored = lambda path: (path / 'new').exists() and {KILL}": "new",  # the old one is still aside
}


@pytest.mark.parametrize("death", DEATHS, ids=["before", "between", "after"])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_one_whole(tmp_path, death):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "old").write_text("")
    code = "with write_atomic(Path(sys.argv[1])) as path:\n    path.mkdir(); (path / 'new').write_text('')"
    assert run(f"{death}\n{code}", folder) == -9
    assert tree(restored(folder)).keys() == {DEATHS[death]}
    with write_atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / "newer").write_text("")
    assert tree(tmp_path).keys() == {"checkpoint/newer"}


def test_restoring_what_was_never_interrupted_changes_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("c")
    assert restored(tmp_path / "a") == tmp_path / "a"
    assert not restored(tmp_path / "missing").exists()
    assert tree(tmp_path) == {"a/b": "c"}


# ---- removing


def test_removing_takes_files_folders_links_and_nothing(tmp_path):
    kept = tmp_path / "kept"
    (kept / "deep").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_text("")
    (tmp_path / "link").symlink_to(kept)
    for name in ("file", "folder", "link", "nothing"):
        remove(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (kept / "deep").is_dir()


def test_a_kill_while_removing_leaves_no_half_of_a_folder(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "part").write_text("")
    patch = f"real = store.shutil.rmtree\nstore.shutil.rmtree = lambda path, **more: Path(path).exists() and {KILL}"
    assert run(f"{patch}\nremove(Path(sys.argv[1]))", tmp_path / "stage") == -9
    assert not (tmp_path / "stage").exists()
    remove(tmp_path / "stage")
    assert list(tmp_path.iterdir()) == []


# ---- JSON


def test_json_reads_back_with_any_sign_and_the_same_bytes(tmp_path):
    value = {"ü": [1, 2.5, None, True], "b": {"c": "日本"}}
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_a_number_is_refused_and_leaves_the_old_file(tmp_path, value):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert tree(tmp_path) == {"a.json": "1\n"}


def test_a_broken_json_file_is_named_with_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1,\n"b": }')
    with pytest.raises(ValueError, match=r"a\.json:2: not JSON .*: remove the file"):
        read_json(tmp_path / "a.json")


# ---- a full disk


def test_a_full_disk_is_named_with_what_to_do_and_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def write():
        with write_atomic(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        OSError, match=r"no space left to write .*/a \(\d+ MB free\): free some space and run the same"
    ) as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert tree(tmp_path) == {"a": "old"}


def test_other_errors_of_the_system_are_passed_on_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match="mine"), write_atomic(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "mine")
    with pytest.raises(RuntimeError, match="mine"), write_atomic(tmp_path / "a"):
        raise RuntimeError("mine")


def fill_torch(path):
    torch.save(torch.zeros(100_000), path)


def fill_numpy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(100_000))


def fill_safetensors(path):
    save_file({"x": torch.zeros(100_000)}, path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full is Linux's")
@pytest.mark.parametrize("fill", [fill_torch, fill_numpy])
def test_writers_that_hide_a_full_disk_are_understood(tmp_path, monkeypatch, fill):
    """torch and numpy report a short write, not ENOSPC; what tells is that no space is left."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, FULL_BYTES - 1))

    def write():
        with write_atomic(tmp_path / "a") as temporary:
            temporary.symlink_to("/dev/full")
            fill(temporary)

    with pytest.raises(OSError, match="no space left to write"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_names_the_full_disk_in_words_only_is_understood(tmp_path):
    """As safetensors and faiss do, whose errors are no OSError."""
    with pytest.raises(store.FullDiskError, match="no space left to write"), write_atomic(tmp_path / "a"):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_watched_block_says_a_full_disk_once(tmp_path):
    with (
        pytest.raises(store.FullDiskError, match=f"no space left to write {tmp_path}/stage"),
        disk_watched(tmp_path / "stage"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(store.FullDiskError, match=r"deep/a \("),
        disk_watched(tmp_path),
        write_atomic(tmp_path / "deep" / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(KeyError), disk_watched(tmp_path):
        raise KeyError("other")


# ---- stage folders


@pytest.fixture
def stage(tmp_path):
    """Makes the view of one folder on disk under some key and version."""

    def make(key="k1", version=1):
        return StageFolder(tmp_path / "round-1" / "read", key, version)

    return make


def test_a_stage_is_missing_then_partial_then_done(stage):
    one = stage()
    assert one.state() == "missing"
    one.open()
    assert one.state() == "partial"
    one.finish({"best": 3})
    assert one.state() == "done"
    assert one.manifest() == {"key": "k1", "version": 1, "best": 3}
    assert tree(one.path).keys() == {"manifest.json"}


def test_an_unfinished_stage_of_the_same_key_is_kept_as_it_is(stage):
    (stage().open() / "half").write_text("work")
    assert (stage().open() / "half").read_text() == "work"
    assert stage().state() == "partial"


@pytest.mark.parametrize("finished", [False, True])
def test_a_stage_of_another_key_is_stale_and_is_emptied(stage, finished):
    (stage().open() / "old").write_text("work")
    if finished:
        stage().finish({})
    assert stage("k2").state() == "stale"
    stage("k2").open()
    assert tree(stage().path).keys() == {"started.json"}
    assert stage("k2").state() == "partial"


def test_a_kill_while_a_stale_stage_is_emptied_leaves_nothing_that_looks_new(stage):
    """Else its parts would be taken for parts of the new key."""
    folder = stage()
    write_parts(folder.open(), 2, lambda part, path: path.write_text("old"))
    half = f"lambda path, **more: Path(path).exists() and ((Path(path) / 'started.json').unlink(), {KILL})"
    code = f"store.shutil.rmtree = {half}\nStageFolder(Path(sys.argv[1]), 'k2', 1).open()"
    assert run(code, folder.path) == -9
    new = stage("k2")
    write_parts(new.open(), 2, lambda part, path: path.write_text("new"))
    assert {path.read_text() for path in (new.path / "parts").glob("part-*")} == {"new"}
    assert sorted(path.name for path in new.path.parent.iterdir()) == ["read"]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(("theirs", "ours"), [(3, 1), (1, 3)])
def test_a_stage_that_another_version_wrote_is_refused_and_kept(stage, finished, theirs, ours):
    other = stage(version=theirs)
    (other.open() / "work").write_text("")
    if finished:
        other.finish({})
    before = tree(other.path)
    said = f"written by format version {theirs}, this Retort writes version {ours}: use the Retort that wrote it, or --force"
    with pytest.raises(ValueError, match=said):
        stage(version=ours).open()
    assert tree(other.path) == before


def test_what_an_older_version_wrote_may_be_lost_by_force_and_what_a_newer_one_wrote_may_not(stage):
    stage(version=2).open()
    stage(version=3).check_version(force=True)
    with pytest.raises(ValueError, match="or remove the folder to build it again"):
        stage(version=1).check_version(force=True)


@pytest.mark.parametrize("state", ["missing", "partial", "stale"])
def test_a_stage_that_is_not_done_has_no_manifest(stage, state):
    if state != "missing":
        stage("k2" if state == "stale" else "k1").open()
    with pytest.raises(ValueError, match=rf"round-1/read is {state}, expected a finished stage"):
        stage().manifest()


# ---- parts


def test_parts_are_written_once_each_and_listed_in_order(tmp_path):
    calls = []

    def write(part, path):
        calls.append(part)
        path.write_text(f"part {part}")

    for _ in range(2):
        paths = write_parts(tmp_path, 3, write, ending=".txt")
    assert [path.name for path in paths] == ["part-00000.txt", "part-00001.txt", "part-00002.txt"]
    assert [path.read_text() for path in paths] == ["part 0", "part 1", "part 2"]
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("killed_in", [0, 1, 3])
def test_a_killed_run_goes_on_at_the_part_that_it_was_in(stage, killed_in):
    folder = stage()
    folder.open()
    code = (
        f"def write(part, path):\n    path.write_text('whole'[: 2 if part == {killed_in} else None])\n"
        f"    part == {killed_in} and {KILL}\nwrite_parts(Path(sys.argv[1]), 4, write)"
    )
    assert run(code, folder.path) == -9
    assert folder.parts_done() == (killed_in, 4)
    later = []
    paths = write_parts(folder.path, 4, lambda part, path: (later.append(part), path.write_text("whole")))
    assert later == list(range(killed_in, 4))
    assert {path.read_text() for path in paths} == {"whole"}
    assert folder.parts_done() == (4, 4)
    assert tree(folder.path / "parts").keys() == {"total.json", *(path.name for path in paths)}


def test_processes_share_out_the_parts(tmp_path):
    written = {0: [], 1: []}
    for process in (1, 0):
        write_parts(
            tmp_path,
            5,
            lambda part, path, process=process: (written[process].append(part), path.write_text(""))[0],
            mine=lambda part, process=process: part % 2 == process,
        )
        assert (tmp_path / "parts" / "total.json").exists() is (process == 0)  # one process only writes it
    assert written == {0: [0, 2, 4], 1: [1, 3]}


def test_a_stage_without_parts_counts_none(stage):
    assert stage().parts_done() is None
    stage().open()
    assert stage().parts_done() is None


# ---- the lock


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    code = "with locked(Path(sys.argv[1])): pass"
    with locked(tmp_path / "run"):
        assert run(f"try:\n    {code}\nexcept BlockingIOError: sys.exit(7)", tmp_path / "run") == 7
    assert run(code, tmp_path / "run") == 0


def test_a_killed_process_frees_its_folder(tmp_path):
    assert run(f"with locked(Path(sys.argv[1])): {KILL}", tmp_path) == -9
    with locked(tmp_path):
        pass


def test_the_error_of_a_held_folder_names_it(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(BlockingIOError, match=f"another process works in {tmp_path}: wait"),
        locked(tmp_path),
    ):
        pass


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
