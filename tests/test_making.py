"""Language models as teachers of a run: from settings to labels."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from retort.compute import accelerator
from retort.config import TeacherSettings
from retort.job import Job
from retort.labelling import LABELS
from retort.making import ANSWERS, made_teacher
from retort.pipeline import run
from retort.plan import plan
from retort.records import Run
from tiny import tiny_tokenizer
from tiny_run import config

SEARCHED = ["prepare", *(f"round-0/{stage}" for stage in ("encode", "index", "retrieve")), "round-1/label"]


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
    """Ranks the passages by their length, as a judge that keeps to the form; counts what it is asked."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        shown = re.findall(r"^\[(\d+)\] ?(.*)$", body["messages"][-1]["content"], re.MULTILINE)
        order = sorted(shown, key=lambda one: (-len(one[1]), one[1]))
        text = self.server.says or " > ".join(f"[{number}]" for number, _ in order)
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Judging)
    made.asked, made.says = 0, None
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def address(server):
    return {"base_url": f"http://127.0.0.1:{server.server_address[1]}/v1", "retries": 0}


@pytest.mark.parametrize("signal", ["answer", "question", "attention"])
def test_a_causal_model_labels_a_run(sources, tmp_path, language_model, signal):
    teacher = {"kind": "language_model", "model": str(language_model), "language": {"signal": signal}, "tokens": 20}
    chosen = config(sources, rounds=1, label={"teachers": [teacher], "depth": 3})
    labels = Run.read(run(chosen, tmp_path, only=SEARCHED)["round-1/label"].path / LABELS)
    assert len(labels) == 34
    assert all(len(set(scores.tolist())) == 3 for _, _, scores in labels)


def test_settings_of_a_language_model_reach_it(sources, tmp_path, language_model):
    job = Job(plan(config(sources), tmp_path), accelerator(config(sources).compute))
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "judge", "model": "m"}, "a judge teacher takes a server: give `server.base_url`"),
        ({"kind": "fid", "server": {"base_url": "http://x/v1"}}, "a fid teacher takes no server"),
        ({"kind": "remote", "server": {"base_url": "http://x/v1"}}, "a remote teacher takes model"),
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
def test_language_models_that_cannot_be_asked_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeacherSettings(**settings)


def test_scores_of_a_language_model_are_finite(sources, tmp_path, language_model):
    teacher = {"kind": "language_model", "model": str(language_model), "tokens": 20}
    chosen = config(sources, rounds=1, label={"teachers": [teacher, {"kind": "bm25"}], "depth": 3})
    folder = run(chosen, tmp_path, only=SEARCHED)["round-1/label"].path
    raw = Run.read(folder / "teacher-0.parquet").scores
    assert np.isfinite(raw).all()
    assert (raw < 0).all()  # log-probabilities
