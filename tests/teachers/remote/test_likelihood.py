"""Remote likelihoods: those of the same model here, from servers of several habits, and none where a server cannot echo."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from retort.records import Group, Passage, Query
from retort.teachers.causal.prompts import Prompt
from retort.teachers.causal.teacher import CausalTeacher
from retort.teachers.remote.cache import AnswerCache
from retort.teachers.remote.client import ServerError
from retort.teachers.remote.likelihood import RemoteLikelihoodTeacher, echoed_log_probs

MERGES = [("Ġ", "s"), ("n", "o"), ("Ġs", "no"), ("Ġsno", "w"), ("Ċ", "Ċ"), ("h", "e"), ("r", "e"), ("Ġ", "w")]


class Model:
    """A random GPT-2 on bytes, with a few merges so that the space before a word belongs to its token."""

    def __init__(self):
        entries = ["<|start|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
        backend = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, MERGES))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|start|>", pad_token="<|start|>")
        config = GPT2Config(
            vocab_size=len(entries), n_positions=256, n_embd=24, n_layer=2, n_head=4, initializer_range=0.4,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = GPT2LMHeadModel(config).eval()

    def complete(self, body, style="openai"):
        """What /completions answers: the prompt and one generated token, echoed in the styles of some kinds of servers."""
        ids = self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            log_probs = self.network(torch.tensor([ids])).logits[0].log_softmax(-1)
        ids = [*ids, int(log_probs[-1].argmax())]
        values = [None, *(float(log_probs[place, token]) for place, token in enumerate(ids[1:]))]
        tokens = [self.tokenizer.decode([token]) for token in ids]
        if style == "whole signs":  # as vLLM: a token that ends inside of a sign is empty, and the next one has it whole
            texts = [self.tokenizer.decode(ids[:end]).rstrip("\ufffd") for end in range(len(ids) + 1)]
            tokens = [text[len(before) :] for before, text in pairwise(texts)]
        text = body["prompt"] + tokens[-1]
        if style == "start token":  # as vLLM: it has an offset of its own
            tokens, values = ["<s>", *tokens], [None, -9.0, *values[1:]]
        offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
        if style == "no offsets":  # as SGLang
            offsets = [-1] * len(tokens)
        if style == "no echo":
            text, tokens, values, offsets = tokens[-1], tokens[-1:], values[-1:], [0]
        logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}
        return {"text": text, "logprobs": None if style == "no log-probabilities" else logprobs}


@pytest.fixture(scope="module")
def model():
    return Model()


@pytest.fixture
def reader(server, model):
    """A server of the model."""
    server.complete = model.complete
    return server


def close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("signal", ["answer", "question"])
def test_the_scores_are_those_of_the_same_model_here(signal, reader, connect, groups, model):
    local = CausalTeacher(model.network, model.tokenizer, signal=signal)
    close(RemoteLikelihoodTeacher(connect(reader), signal=signal).score(groups), local.score(groups))


def test_a_score_is_the_mean_log_probability_of_the_first_answers_tokens(reader, connect, groups, model):
    prompt = "Winter\nthe snow fell\n\nQuestion: what falls here?\nAnswer:"
    ids, answer = (model.tokenizer(text)["input_ids"] for text in (prompt, " snow"))
    assert len(answer) == 1
    with torch.inference_mode():
        wanted = model.network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[answer[0]]
    found = RemoteLikelihoodTeacher(connect(reader)).score(groups)[0][0]
    assert found == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("style", ["start token", "no offsets"])
def test_servers_that_count_otherwise_give_the_same_scores(style, reader, connect, groups, model):
    wanted = RemoteLikelihoodTeacher(connect(reader)).score(groups)
    reader.complete = partial(model.complete, style=style)
    close(RemoteLikelihoodTeacher(connect(reader)).score(groups), wanted)


def test_answers_that_are_no_ascii_are_scored_whole(reader, connect, model):
    group = Group(Query("q", "what falls?", ("né",)), (Passage("a", "", "snow fell"),))  # é is two tokens
    wanted = CausalTeacher(model.network, model.tokenizer).score([group])
    reader.complete = partial(model.complete, style="whole signs")
    close(RemoteLikelihoodTeacher(connect(reader)).score([group]), wanted)


@pytest.mark.parametrize("style", ["no echo", "no log-probabilities"])
def test_a_server_that_cannot_echo_is_refused_and_its_answer_not_kept(style, reader, connect, groups, model, tmp_path):
    reader.complete = partial(model.complete, style=style)
    cache = AnswerCache(tmp_path)
    with pytest.raises(ServerError, match="expected the prompt echoed with the log-probability"):
        RemoteLikelihoodTeacher(connect(reader, cache=cache)).score(groups)
    assert len(cache) == 0


def test_a_token_across_the_border_is_refused_with_a_way_out(reader, connect, groups):
    prompt = Prompt("{text}", "{question} sn", "ow {answer}")
    with pytest.raises(ServerError, match=r"a token lies across the border; end the prompt's tail"):
        RemoteLikelihoodTeacher(connect(reader), prompt=prompt).score(groups)


def test_a_second_pass_costs_nothing(reader, connect, groups, tmp_path):
    cache = AnswerCache(tmp_path)
    first = RemoteLikelihoodTeacher(connect(reader, cache=cache)).score(groups)
    cache.close()
    client = connect(reader, cache=AnswerCache(tmp_path))
    close(RemoteLikelihoodTeacher(client).score(groups), first)
    assert (client.cost.requests, client.cost.cache_hits) == (0, 4)


def test_passages_are_cut_by_words(reader, connect, groups):
    RemoteLikelihoodTeacher(connect(reader), words=2).score(groups[1:])
    assert reader.seen[0][2]["prompt"] == "where he\n\nQuestion: who was it?\nAnswer: he"


def test_only_the_signal_question_scores_a_question_without_answer(reader, connect):
    group = Group(Query("bare", "what falls?"), (Passage("a", "", "snow"),))
    assert np.isfinite(RemoteLikelihoodTeacher(connect(reader), signal="question").score([group])[0]).all()
    with pytest.raises(ValueError, match="question 'bare' has no answer"):
        RemoteLikelihoodTeacher(connect(reader)).score([group])


def test_a_prompt_that_does_not_fit_the_signal_is_refused_at_once(reader, connect):
    with pytest.raises(ValueError, match="the prompt of signal answer"):
        RemoteLikelihoodTeacher(connect(reader), prompt=Prompt("{text}", "Question:", " {question}"))


def echo(tokens, values, offsets=None):
    return {
        "choices": [
            {"text": "".join(tokens), "logprobs": {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}}
        ]
    }


def test_the_tokens_behind_the_prompt_are_taken_and_the_generated_one_is_not():
    answer = echo(["Q", ":", " sno", "w", "."], [None, -1.0, -2.0, -3.0, -4.0], [0, 1, 2, 6, 7])
    assert echoed_log_probs(answer, "Q:", " snow").tolist() == [-2.0, -3.0]


def test_an_answer_of_vllm_is_read():
    tokens = ["The", " step", " of", " boiling", " water", " is", ":", " ", "1"]  # vLLM 0.16: llama.cpp's pull request 15189
    values = [None, -8.8188, -1.5526, -13.5599, -2.0115, -2.2331, -8.537, -1.287, -0.4106]
    answer = echo(tokens, values, [0, 3, 8, 11, 19, 25, 28, 29, 30])
    found = echoed_log_probs(answer, "The step of boiling", " water is: ")
    assert found.tolist() == pytest.approx([-2.0115, -2.2331, -8.537, -1.287])


def test_a_part_of_a_sign_counts_where_the_sign_stands():
    answer = {"choices": [echo(["Q:", " n", "", "é", "."], [None, -1.0, -2.0, -3.0, -4.0])["choices"][0]]}
    assert echoed_log_probs(answer, "Q:", " né").tolist() == [-1.0, -2.0, -3.0]


def test_tokens_that_say_something_else_are_refused():
    answer = echo(["Q:", " s", "now"], [None, -1.0, -2.0], [0, 1, 2])
    answer["choices"][0]["text"] = "Q: snow"
    with pytest.raises(ValueError, match="the tokens behind the prompt are 'now', expected ' snow'"):
        echoed_log_probs(answer, "Q:", " snow")


def test_a_log_probability_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="look at the server's log"):
        echoed_log_probs(echo(["Q:", " snow"], [None, float("nan")]), "Q:", " snow")


def test_a_scored_token_without_log_probability_is_refused():
    with pytest.raises(ValueError, match="begin the prompt with a word"):
        echoed_log_probs(echo([" snow"], [None]), "", " snow")
