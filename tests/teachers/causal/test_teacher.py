"""The teacher's scores: against plain forward passes on texts that are put together here."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from retort.records import Group, Passage, Query, Teacher
from retort.teachers.causal.prompts import Prompt
from retort.teachers.causal.teacher import CausalTeacher
from tiny import tiny_world

CORPUS, QUERIES, RUN = tiny_world(passages=7, queries=4)
GROUPS = [Group(query, tuple(CORPUS[row] for row in RUN.of(query.id)[0].tolist())) for query in QUERIES]
LIKELIHOODS = ["answer", "question"]
SIGNALS = [*LIKELIHOODS, "attention"]


@pytest.fixture(scope="module")
def model(build, words):
    return build("llama", len(words), kernel="sdpa", context=512)


def shown(signal, group, passage):
    about = f"{passage.title}\n{passage.text}".strip()
    if signal == "question":
        return f"{about}\n\nPlease write a question that this passage answers.\nQuestion:"
    return f"{about}\n\nQuestion: {group.query.text}\nAnswer:"


def mean_log_prob(model, prompt, scored):
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([prompt + scored])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return log_probs.gather(1, torch.tensor(scored)[:, None]).mean()


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def flat(scores):
    return np.concatenate(scores)


@pytest.mark.parametrize("signal", LIKELIHOODS)
def test_a_likelihood_is_the_mean_log_probability_behind_each_passage_alone(model, words, signal):
    wanted = [
        mean_log_prob(
            model,
            [words.bos_token_id, *ids(words, shown(signal, group, passage))],
            ids(words, group.query.answers[0] if signal == "answer" else group.query.text),
        )
        for group in GROUPS
        for passage in group.passages
    ]
    found = CausalTeacher(model, words, signal=signal, batch_tokens=300).score(GROUPS)
    np.testing.assert_allclose(flat(found), wanted, atol=1e-5)
    assert [len(scores) for scores in found] == [len(group.passages) for group in GROUPS]
    assert all(scores.dtype == np.float32 for scores in found)
    assert flat(found).std() > 0.05


@pytest.mark.parametrize("signal", LIKELIHOODS)
def test_permuted_passages_get_permuted_likelihoods(model, words, signal):
    teacher = CausalTeacher(model, words, signal=signal)
    turned = [replace(group, passages=group.passages[::-1]) for group in GROUPS]
    for scores, back in zip(teacher.score(GROUPS), teacher.score(turned), strict=True):
        np.testing.assert_allclose(scores, back[::-1], atol=1e-5)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_groups_scores_do_not_depend_on_the_groups_beside_it(model, words, signal):
    teacher = CausalTeacher(model, words, signal=signal)
    for group, scores in zip(GROUPS, teacher.score(GROUPS), strict=True):
        np.testing.assert_allclose(teacher.score([group])[0], scores, atol=1e-5)


@pytest.mark.parametrize("signal", LIKELIHOODS)
def test_prefixes_read_once_and_pairs_alone_score_alike(model, words, signal):
    long = Prompt("{text}", "Question" + (": {question}" if signal == "answer" else ":"), f" {{{signal}}}", "the king " * 20)
    shared, apart = (
        CausalTeacher(model, words, signal=signal, prompt=long, share_prefixes=share) for share in (True, False)
    )
    np.testing.assert_allclose(flat(shared.score(GROUPS)), flat(apart.score(GROUPS)), atol=1e-5)


def test_only_the_first_answer_counts_and_its_end_where_it_is_asked_for(model, words):
    others = [replace(group, query=replace(group.query, answers=(*group.query.answers, "snow"))) for group in GROUPS]
    teacher = CausalTeacher(model, words)
    np.testing.assert_array_equal(flat(teacher.score(GROUPS)), flat(teacher.score(others)))
    group, passage = GROUPS[0], GROUPS[0].passages[0]
    prompt = [words.bos_token_id, *ids(words, shown("answer", group, passage))]
    ended = mean_log_prob(model, prompt, [*ids(words, group.query.answers[0]), words.eos_token_id])
    found = CausalTeacher(model, words, end_token=True).score([group])[0][0]
    np.testing.assert_allclose(found, ended, atol=1e-5)


def test_a_chat_model_scores_the_assistants_turn(model, words):
    group, passage = GROUPS[0], GROUPS[0].passages[0]
    turns = [{"role": "user", "content": shown("answer", group, passage)}]
    prompt = words.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    wanted = mean_log_prob(model, prompt, ids(words, group.query.answers[0]))
    chat, plain = CausalTeacher(model, words, chat=True), CausalTeacher(model, words)
    np.testing.assert_allclose(chat.score([group])[0][0], wanted, atol=1e-5)
    assert np.abs(flat(chat.score(GROUPS)) - flat(plain.score(GROUPS))).max() > 0.01


def listed(group, query):
    """The attention prompt in parts: up to the passages, each of them, the question's lead, the question, the rest."""
    passages = [f"{p.title}\n{p.text}".strip() for p in group.passages]
    lead = "Please answer this question from the paragraphs above. Question:"
    return "Here are some paragraphs:", passages, lead, query, "Answer:"


def own_attention(build, words, group, query, looking, answer=()):
    """What each passage's tokens get, from the maps of the eager kernel."""
    head, passages, lead, question, rest = listed(group, query)
    prompt, spans = [words.bos_token_id, *ids(words, head)], []
    for text in passages:
        spans.append(slice(len(prompt), len(prompt) + len(ids(words, text))))
        prompt += ids(words, text)
    prompt += ids(words, lead)
    rows = {"question": slice(len(prompt), len(prompt) + len(ids(words, question)))}
    prompt += [*ids(words, question), *ids(words, rest)]
    rows["last"] = slice(len(prompt) - 1, len(prompt))
    rows["answer"] = slice(len(prompt), None)
    model = build("llama", len(words), context=512)
    with torch.no_grad():
        maps = torch.cat(model(input_ids=torch.tensor([[*prompt, *answer]]), output_attentions=True).attentions)
    shares = maps[:, :, rows[looking]].mean((0, 1, 2))
    return [shares[span].numpy() for span in spans]


@pytest.mark.parametrize("looking", ["question", "last", "answer"])
def test_attention_is_what_the_models_maps_say_with_and_without_calibration(model, words, build, looking):
    group = GROUPS[0]
    answer, empty = ids(words, group.query.answers[0]), ids(words, "N/A")
    own = own_attention(build, words, group, group.query.text, looking, answer if looking == "answer" else ())
    bias = own_attention(build, words, group, "N/A", looking, empty if looking == "answer" else ())
    [found] = CausalTeacher(model, words, signal="attention", looking=looking, calibrated=False).score([group])
    np.testing.assert_allclose(found, [tokens.sum() for tokens in own], atol=1e-6)
    gained = [tokens - without for tokens, without in zip(own, bias, strict=True)]
    kept = [tokens[tokens >= tokens.mean() - 2 * tokens.std()].sum() for tokens in gained]
    [found] = CausalTeacher(model, words, signal="attention", looking=looking).score([group])
    np.testing.assert_allclose(found, kept, atol=1e-6)
    assert np.std(found) > 1e-4


def test_heads_choose_where_attention_is_read(model, words):
    every = CausalTeacher(model, words, signal="attention", calibrated=False).score(GROUPS)
    layers = [
        CausalTeacher(model, words, signal="attention", calibrated=False, heads={layer: []}).score(GROUPS)
        for layer in (0, 1)
    ]
    np.testing.assert_allclose(flat(every), (flat(layers[0]) + flat(layers[1])) / 2, atol=1e-6)


@pytest.mark.parametrize("signal", SIGNALS)
def test_no_groups_and_groups_without_passages_get_no_scores(model, words, signal):
    teacher = CausalTeacher(model, words, signal=signal)
    assert isinstance(teacher, Teacher)
    assert teacher.score([]) == []
    empty, scores = teacher.score([Group(Query("q", "who"), ()), GROUPS[0]])
    assert len(empty) == 0
    np.testing.assert_allclose(scores, teacher.score([GROUPS[0]])[0], atol=1e-5)


def test_the_model_is_left_as_it_was_and_scores_without_dropout(build, words):
    model = build("gpt2", len(words)).train()  # GPT-2's dropout is 0.1
    teacher = CausalTeacher(model, words)
    np.testing.assert_array_equal(flat(teacher.score(GROUPS)), flat(teacher.score(GROUPS)))
    assert model.training


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_forward_pass_is_inside_of_the_given_precision(model, words, signal):
    @contextmanager
    def precision():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    half = flat(CausalTeacher(model, words, signal=signal, autocast=precision).score(GROUPS))
    whole = flat(CausalTeacher(model, words, signal=signal).score(GROUPS))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.5


def test_questions_without_answers_are_named_by_the_signals_that_read_them(model, words):
    asked = [GROUPS[0], replace(GROUPS[1], query=Query("q9", "who is the king"))]
    for options in ({"signal": "answer"}, {"signal": "attention", "looking": "answer"}):
        with pytest.raises(ValueError, match="question 'q9' has no answer, and the teacher reads it"):
            CausalTeacher(model, words, **options).score(asked)
    for options in ({"signal": "question"}, {"signal": "attention"}):
        assert len(CausalTeacher(model, words, **options).score(asked)) == 2


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(build, words, signal):
    model = build("gpt2", len(words), context=128)
    group = Group(Query("q9", "who", ("snow",)), (Passage("p", "", "snow " * 140), Passage("r", "", "rain " * 140)))
    with pytest.raises(
        ValueError, match=r"the prompt of question 'q9' has \d+ tokens, the model's context is 128: label fewer"
    ):
        CausalTeacher(model, words, signal=signal).score([group])
    assert len(CausalTeacher(model, words, signal=signal, tokens=10).score([group])[0]) == 2


def test_scores_that_are_not_finite_are_named(build, words):
    model = build("llama", len(words))
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    first = GROUPS[0].passages[0].id
    with pytest.raises(
        ValueError, match=f"the language model scores query 'q0' with passage {first!r} nan, expected a finite"
    ):
        CausalTeacher(model, words).score(GROUPS)


def test_what_cannot_work_is_refused_at_once(model, build, words, own_words):
    with pytest.raises(ValueError, match="the prompt of signal question holds"):
        CausalTeacher(model, words, signal="question", prompt=Prompt("{text}", "{question}", " {question}"))
    with pytest.raises(ValueError, match="its model's vocabulary 20"):
        CausalTeacher(build("gpt2", 20), words)
    own_words.chat_template = None
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        CausalTeacher(model, own_words, chat=True)
