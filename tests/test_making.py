"""Language models as teachers of a run: from settings to labels."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel

from retort.compute import accelerator
from retort.config import TeacherSettings
from retort.job import Job
from retort.labelling import LABELS
from retort.making import ANSWERS, client_of, made_teacher
from retort.pipeline import run
from retort.plan import plan
from retort.records import Run
from retort.store import COST, PARTS, read_json
from retort.teachers.remote.client import ServerError
from retort.teachers.remote.forms import Grades, Ranking
from retort.teachers.remote.judge import JudgeTeacher
from tiny import tiny_tokenizer
from tiny_run import config

SEARCHED = ["prepare", *(f"round-0/{stage}" for stage in ("encode", "index", "retrieve")), "round-1/label"]
ONCE = {"judge": {"repeats": 1}}


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """The folder of a random causal model with its tokenizer."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = tiny_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"n_positions": 256, "n_embd": 24, "n_layer": 2, "n_head": 4, "initializer_range": 0.4}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, **shape))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


class Judging(BaseHTTPRequestHandler):
    """Ranks the passages by their length, as a judge that keeps to the form; counts what it is asked. Dead after `lives`."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.asked == self.server.lives:
            self.send_error(401)
            return
        self.server.asked += 1
        shown = re.findall(r"^\[(\d+)\] ?(.*)$", body["messages"][0]["content"], re.MULTILINE)
        order = sorted(shown, key=lambda one: (-len(one[1]), one[1]))
        text = self.server.says or " > ".join(f"[{number}]" for number, _ in order)
        if self.server.slips and len(body["messages"]) == 1:
            text = "well"  # until it is reminded
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Judging)
    made.asked, made.says, made.lives, made.slips = 0, None, None, False
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def job(sources, tmp_path):
    return Job(plan(config(sources), tmp_path), accelerator(config(sources).compute))


def address(server):
    return {"base_url": f"http://127.0.0.1:{server.server_address[1]}/v1", "retries": 0}


@pytest.mark.parametrize("signal", ["answer", "question", "attention"])
def test_a_causal_model_labels_a_run(sources, tmp_path, language_model, signal):
    teacher = {"kind": "language_model", "model": str(language_model), "language": {"signal": signal}, "tokens": 20}
    chosen = config(sources, rounds=1, label={"teachers": [teacher], "depth": 3})
    labels = Run.read(run(chosen, tmp_path, only=SEARCHED)["round-1/label"].path / LABELS)
    assert len(labels) == 34
    assert all(len(set(scores.tolist())) == 3 for _, _, scores in labels)


def test_settings_of_a_language_model_reach_it(job, language_model):
    prompt = {"tail": "{question} ?", "scored": " {answer}", "passage": "{text}"}
    language = {"signal": "attention", "prompt": prompt, "looking": "last", "calibrated": False, "heads": {0: [1]}}
    made = made_teacher(job, TeacherSettings(kind="language_model", model=str(language_model), language=language, tokens=9))
    assert (made.signal, made.looking, made.calibrated, made.tokens) == ("attention", "last", False, 9)
    assert made.heads == {0: [1]}
    assert made.prompt.tail == "{question} ?"


def test_a_judge_behind_a_server_labels_a_run_and_is_never_asked_twice(sources, tmp_path, server):
    teacher = {"kind": "judge", "model": "any", "server": address(server), "judge": {"form": "ranking"}}
    chosen = config(sources, rounds=1, label={"teachers": [teacher], "depth": 3})
    folder = run(chosen, tmp_path, only=SEARCHED)["round-1/label"].path
    labels, asked = Run.read(folder / LABELS), server.asked
    assert {tuple(scores.tolist()) for _, _, scores in labels} == {(2.0, 1.0, 0.0)}
    assert asked == 34 * 2  # an order and the same turned round, where nothing is said
    assert list((tmp_path / ANSWERS).iterdir())
    run(chosen, tmp_path, only=["round-1/label"], force=True)
    assert server.asked == asked
    assert Run.read(folder / LABELS).scores.tolist() == labels.scores.tolist()


def test_passages_that_a_judge_never_judged_have_no_label(sources, tmp_path, server):
    server.says = "I cannot say"
    judge = {"form": "grades", "failed": "skip", "attempts": 2}
    teacher = {"kind": "judge", "model": "any", "server": address(server), "judge": judge}
    chosen = config(sources, rounds=1, label={"teachers": [teacher], "depth": 3})
    found = run(chosen, tmp_path, only=SEARCHED)["round-1/label"]
    assert len(Run.read(found.path / LABELS).passages) == 0
    assert found.folder.manifest()["set aside"] == {"replies of the judge that never had the form": 34 * 3}


def test_what_was_paid_before_a_server_failed_is_in_the_bill_of_the_whole_stage(sources, tmp_path, server):
    prices = {"price_per_million": {"prompt": 50.0, "completion": 1000.0}}
    teacher = {"kind": "judge", "model": "any", "server": address(server) | prices | {"in_flight": 1}, **ONCE}
    chosen = config(sources, rounds=1, label={"teachers": [teacher], "depth": 3})
    server.lives = 20  # one part of 12 questions, and 8 of the next
    with pytest.raises(ServerError, match="status 401"):
        run(chosen, tmp_path, only=SEARCHED)
    server.lives = None
    folder = run(chosen, tmp_path, only=["round-1/label"])["round-1/label"].path
    [found] = read_json(folder / COST)["remote"]
    seconds = found.pop("seconds")
    assert found == {
        "model": "any", "requests": 35, "retries": 0, "cache_hits": 8, "prompt_tokens": 3400, "completion_tokens": 340,
        "malformed": 0, "money": pytest.approx((50 * 3400 + 1000 * 340) / 1e6),
    }  # fmt: skip
    assert seconds > 0
    assert read_json(folder / COST)["items"] == 34 * 3
    assert not (folder / PARTS).exists()  # where it was counted


def test_two_judges_of_a_stage_share_the_answers_and_have_a_bill_each(sources, tmp_path, server):
    server.slips = True
    where = address(server)
    teachers = [{"kind": "judge", "model": name, "server": where, **ONCE} for name in ("one", "two")]
    chosen = config(sources, rounds=1, label={"teachers": teachers, "depth": 3})
    folder = run(chosen, tmp_path, only=SEARCHED)["round-1/label"].path
    found = read_json(folder / COST)["remote"]
    assert [(one["model"], one["requests"], one["malformed"], one["money"]) for one in found] == [
        ("one", 68, 34, None),
        ("two", 68, 34, None),
    ]


def test_replies_of_finished_parts_are_counted_though_another_process_read_them(sources, tmp_path, server):
    server.slips, server.lives = True, 2 * 12
    teacher = {"kind": "judge", "model": "any", "server": address(server), **ONCE}
    chosen = config(sources, rounds=1, label={"teachers": [teacher], "depth": 3})
    with pytest.raises(ServerError):
        run(chosen, tmp_path, only=SEARCHED)
    server.lives = None
    folder = run(chosen, tmp_path, only=["round-1/label"])["round-1/label"].path
    assert read_json(folder / COST)["remote"][0]["malformed"] == 34


def asked(job, process, monkeypatch, **settings):
    """The client of one process's judge."""
    monkeypatch.setattr(Accelerator, "process_index", process)
    teacher = TeacherSettings(kind="judge", model="m", server={"base_url": "http://x/v1", **settings})
    with client_of(job, teacher, job.root / f"asked-{process}.json") as client:
        return client.server


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_limits_of_a_server(job, monkeypatch, processes):
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    limits = {"in_flight": 8, "requests_per_minute": 60.0}
    servers = [asked(job, process, monkeypatch, **limits) for process in range(processes)]
    assert sum(one.in_flight for one in servers) == 8
    assert sum(one.requests_per_minute for one in servers) == pytest.approx(60)


def test_a_process_has_one_request_under_way_at_least_and_no_rate_where_none_is_set(job, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    found = asked(job, 2, monkeypatch, in_flight=2)
    assert (found.in_flight, found.requests_per_minute) == (1, None)


def test_the_waits_of_the_settings_reach_the_client(job, monkeypatch):
    found = asked(job, 0, monkeypatch, first_wait_seconds=3.0, longest_wait_seconds=40.0)
    assert (found.first_wait_seconds, found.longest_wait_seconds) == (3, 40)


@pytest.mark.parametrize("settings", [{"form": "grades"}, {"form": "ranking", "grammar": "regex"}, {}], ids=str)
def test_a_judge_by_its_settings_is_the_judge_by_its_class(job, settings):
    teacher = TeacherSettings(kind="judge", model="m", server={"base_url": "http://x/v1"}, judge=settings)
    with client_of(job, teacher, job.root / "asked.json") as client:
        made = made_teacher(job, teacher, client)
        own = Grades() if settings.get("form") == "grades" else Ranking(grammar=settings.get("grammar", "none"))
        assert made.form == own
        assert (made.repeats, made.attempts) == (own.repeats, JudgeTeacher(client, own).attempts)


def test_the_smallest_window_is_three_passages():
    assert Ranking(window=3).window == 3
    with pytest.raises(ValueError, match="windows of 2 passages, expected 3 or more: set window higher"):
        Ranking(window=2)


def test_prices_change_no_label(sources, tmp_path, server):
    priced = address(server) | {"price_per_million": {"prompt": 1, "completion": 2}}
    first, second = (
        plan(config(sources, label={"teachers": [{"kind": "judge", "model": "any", "server": where}]}), tmp_path)
        for where in (address(server), priced)
    )
    assert first["round-1/label"].folder.key == second["round-1/label"].folder.key


def test_the_report_shows_what_servers_were_asked(sources, tmp_path, server):
    prices = {"price_per_million": {"prompt": 50.0, "completion": 0}}
    teacher = {"kind": "judge", "model": "any", "server": address(server) | prices, **ONCE}
    run(config(sources, rounds=1, label={"teachers": [teacher], "depth": 3}), tmp_path)
    costs = {cost["stage"]: cost for cost in read_json(tmp_path / "report" / "report.json")["costs"]}
    assert costs["round-1/label"]["remote"][0]["money"] == pytest.approx(50 * 3400 / 1e6)
    assert costs["round-1/distil"]["remote"] == []
    assert "Teachers behind servers" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "judge", "model": "m"}, "a judge teacher takes a server: give `server.base_url`"),
        ({"kind": "fid", "server": {"base_url": "http://x/v1"}}, "a fid teacher takes no server"),
        ({"kind": "remote", "server": {"base_url": "http://x/v1"}}, "a remote teacher takes model"),
        (
            {"kind": "remote", "model": "m", "server": {"base_url": "http://x/v1"}, "language": {"chat": True}},
            r"a remote teacher reads signal and prompt of `language`, not \['chat'\]: take them out",
        ),
        (
            {"kind": "bm25", "sha256": "ab"},
            "`sha256` is a setting of cross_encoder and retriever and language_model teachers",
        ),
        ({"kind": "bm25", "tokens": 64}, "`tokens` is a setting of cross_encoder and retriever and language_model teachers"),
        ({"kind": "cross_encoder", "model": "m", "words": 50}, "`words` is a setting of remote and judge teachers"),
        ({"kind": "answers", "squashed": True}, "`squashed` is a setting of cross_encoder and run teachers"),
        ({"kind": "fid", "judge": {"scale": 5}}, "`judge` is a setting of judge teachers, and kind is 'fid': take it out"),
        (
            {"kind": "remote", "model": "m", "server": {"base_url": "http://x/v1"}, "language": {"signal": "attention"}},
            "no server tells where a model looks",
        ),
        (
            {
                "kind": "judge",
                "model": "m",
                "server": {"base_url": "http://x/v1"},
                "judge": {"form": "grades", "repeats": 2},
            },
            "repeated grades at temperature 0 are the same",
        ),
    ],
)
def test_teachers_that_cannot_be_asked_or_do_not_read_a_setting_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeacherSettings(**settings)


def test_scores_of_a_language_model_are_finite(sources, tmp_path, language_model):
    teacher = {"kind": "language_model", "model": str(language_model), "tokens": 20}
    chosen = config(sources, rounds=1, label={"teachers": [teacher, {"kind": "bm25"}], "depth": 3})
    folder = run(chosen, tmp_path, only=SEARCHED)["round-1/label"].path
    raw = Run.read(folder / "teacher-0.parquet").scores
    assert np.isfinite(raw).all()
    assert (raw < 0).all()  # log-probabilities
