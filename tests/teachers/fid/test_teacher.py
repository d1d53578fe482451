import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import ByT5Tokenizer

from retort.config import Prompts
from retort.records import Group, Passage, Query
from retort.teachers.fid.attention import passage_scores, token_scores
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.model import Reader
from retort.teachers.fid.prompts import passage_strings, tokenise_passages, tokenise_targets
from retort.teachers.fid.signals import ReaderSignal
from retort.teachers.fid.teacher import FidTeacher, answer_groups
from tiny import WORDS, tiny_reader, tiny_t5, tiny_tokenizer

PROMPTS = Prompts(passage_tokens=40, answer_tokens=5)
KINDS = ["t5", "bart", "bert", "copying"]


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def groups():
    """7 questions with 0 to 6 candidates of different lengths."""
    rng = np.random.default_rng(0)

    def text(words):
        return " ".join(rng.choice(WORDS, words))

    return [
        Group(
            Query(f"q{i}", text(4), ("snow",)),
            tuple(Passage(f"p{i}{k}", text(1), text(3 + 2 * k)) for k in range((i * 3) % 7)),
        )
        for i in range(7)
    ]


def teacher(reader, accelerator, *, batch=3, prompts=PROMPTS):
    return FidTeacher(reader, prompts, batch=batch, accelerator=accelerator)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_group_alone_in_its_own_order(readers, groups, accelerator, kind):
    scores = teacher(readers[kind], accelerator).score(groups)
    assert [len(values) for values in scores] == [len(group.passages) for group in groups]
    for group, values in zip(groups, scores, strict=True):
        assert values.dtype == np.float32
        if group.passages:
            with torch.no_grad():
                alone = passage_scores(readers[kind].model, *tokenise_passages(readers[kind], [group], PROMPTS))
            np.testing.assert_allclose(values, alone[0].numpy(), atol=2e-6)


def test_scores_do_not_depend_on_the_batch(readers, groups, accelerator):
    one, many = (teacher(readers["bart"], accelerator, batch=batch).score(groups) for batch in (1, 50))
    np.testing.assert_allclose(np.concatenate(one), np.concatenate(many), atol=2e-6)


def test_scores_do_not_depend_on_the_answers(readers, groups, accelerator):
    others = [Group(Query(g.query.id, g.query.text, ("fire", "water")), g.passages) for g in groups]
    for one, other in zip(*(teacher(readers["t5"], accelerator).score(g) for g in (groups, others)), strict=True):
        assert np.array_equal(one, other)


def test_the_copy_signal_is_the_log_of_the_share_of_what_the_reader_would_copy(readers, groups, accelerator):
    reader, group = readers["copying"], groups[2]
    labelling = FidTeacher(reader, PROMPTS, batch=3, accelerator=accelerator, signals=[ReaderSignal("copy")])
    ids, mask = tokenise_passages(reader, [group], PROMPTS)
    with torch.no_grad():
        shares = passage_scores(reader.model, ids, mask, stage="post_softmax", tokens="sum")[0]
    (found,) = labelling.score([group])
    np.testing.assert_allclose(np.exp(found), shares.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.exp(found).sum(), 1.0, atol=1e-5)


def test_labels_are_made_without_dropout(tokenizer, groups, accelerator):
    reader = tiny_reader("bert", tokenizer, dropout=0.5).train()
    labelling = teacher(reader, accelerator)
    assert all(np.array_equal(a, b) for a, b in zip(labelling.score(groups), labelling.score(groups), strict=True))


def test_a_score_that_is_not_finite_is_refused_with_its_question(tokenizer, groups, accelerator):
    reader = tiny_reader("t5", tokenizer)
    with torch.no_grad():
        reader.model.decoder.block[1].layer[1].EncDecAttention.k.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match="question 'q1'"):
        teacher(reader, accelerator).score(groups)


# ---- where it looked


@pytest.mark.parametrize("special", [False, True])
def test_the_heat_map_shows_the_string_in_pieces_with_the_score_of_each_token(readers, groups, accelerator, special):
    prompts, reader, group = Prompts(passage_tokens=30, special_tokens=special), readers["bert"], groups[2]
    shown = teacher(reader, accelerator, prompts=prompts).looked_at(group)
    ids, mask = tokenise_passages(reader, [group], prompts)
    with torch.no_grad():
        tokens = token_scores(reader.model, encode_passages(reader.model, ids, mask), mask)[0, 0]
    assert len(shown) == len(group.passages)
    for (pieces, values), string, scores, real in zip(
        shown, passage_strings(group, prompts), tokens, mask[0].bool(), strict=True
    ):
        wanted = scores[real][1:-1] if special else scores[real]
        assert string.startswith("".join(pieces))
        assert pieces[0] == "question"
        np.testing.assert_allclose(values, wanted.numpy(), atol=1e-6)


def test_the_mean_over_a_heat_maps_tokens_is_the_label(readers, groups, accelerator):
    labelling = teacher(readers["t5"], accelerator)
    means = [np.mean(values) for _, values in labelling.looked_at(groups[2])]
    np.testing.assert_allclose(means, labelling.score([groups[2]])[0], atol=2e-6)


# ---- answers


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_greedy_ones_of_each_question_alone(readers, groups, accelerator, kind):
    reader = readers[kind]
    answers = answer_groups(reader, groups, PROMPTS, batch=4, accelerator=accelerator)
    assert set(answers) == {group.query.id for group in groups if group.passages}
    for group in groups:
        if group.passages:
            tokens = reader.generate(*tokenise_passages(reader, [group], PROMPTS), max_tokens=5)
            assert answers[group.query.id] == reader.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("training", [False, True])
def test_answering_uses_no_dropout_and_leaves_the_mode_as_it_was(tokenizer, groups, accelerator, training):
    reader = tiny_reader("t5", tokenizer, dropout=0.5).train(training)
    first, second = (answer_groups(reader, groups, PROMPTS, batch=4, accelerator=accelerator) for _ in range(2))
    assert first == second
    assert reader.training is training


def test_a_question_without_answers_is_refused_by_a_signal_that_reads_them(readers, groups, accelerator):
    one = Group(Query("alone", "who fell", ()), groups[2].passages)
    labelling = FidTeacher(readers["t5"], PROMPTS, batch=3, accelerator=accelerator, signals=[ReaderSignal("pdist")])
    with pytest.raises(ValueError, match=r"\['pdist'\] read an answer, and 1 questions have none, among them \['alone'\]"):
        labelling.score([one])


def test_a_question_with_one_passage_is_refused_by_loop_with_its_id(readers, groups, accelerator):
    one = Group(Query("alone", "who fell", ("snow",)), groups[2].passages[:1])
    labelling = FidTeacher(readers["t5"], PROMPTS, batch=3, accelerator=accelerator, signals=[ReaderSignal("loop")])
    with pytest.raises(
        ValueError, match=r"loop leaves one passage out, and 1 questions have one only, among them \['alone'\]"
    ):
        labelling.score([groups[2], one])


def test_passages_of_empty_texts_are_scored_by_their_titles(readers, accelerator):
    group = Group(Query("q", "who fell"), (Passage("a", "snow", ""), Passage("b", "rain", "")))
    (found,) = teacher(readers["t5"], accelerator).score([group])
    assert len(found) == 2
    assert found[0] != found[1]


def test_an_answer_longer_than_the_decoder_is_refused_by_a_signal_that_reads_it(readers, groups, accelerator):
    long = Group(Query("long", "who fell", ("snow " * 70,)), groups[2].passages)
    assert len(teacher(readers["bart"], accelerator).score([long])[0]) == len(long.passages)
    labelling = FidTeacher(readers["bart"], PROMPTS, batch=3, accelerator=accelerator, signals=[ReaderSignal("pdist")])
    with pytest.raises(ValueError, match="of question 'long' has 71 tokens"):
        labelling.score([long])


def test_strings_longer_than_the_readers_positions_are_refused_at_once(readers, accelerator):
    with pytest.raises(ValueError, match=r"passage_tokens is 120, but the encoder of the reader, a Bart.*, has 64 pos"):
        teacher(readers["bart"], accelerator, prompts=Prompts(passage_tokens=120))


def test_a_slow_tokenizer_gives_labels_and_answers_but_no_heat_map(accelerator, groups):
    """A reader of bytes, as ByT5."""
    reader = Reader(tiny_t5(ByT5Tokenizer()).eval(), ByT5Tokenizer())
    labelling = teacher(reader, accelerator)
    assert len(labelling.score([groups[2]])[0]) == len(groups[2].passages)
    assert set(answer_groups(reader, [groups[2]], PROMPTS, batch=1, accelerator=accelerator)) == {"q2"}
    assert labelling.looked_at(groups[2]) == []


def test_batches_are_filled_up_with_the_end_token_where_no_padding_token_is_named(tokenizer, groups, accelerator, tmp_path):
    reader = tiny_reader("t5", tiny_tokenizer(tmp_path))
    wanted = teacher(reader, accelerator).score(groups)
    reader.tokenizer.eos_token, reader.tokenizer.pad_token = "[SEP]", None
    for found, value in zip(teacher(reader, accelerator).score(groups), wanted, strict=True):
        np.testing.assert_allclose(found, value, atol=2e-6)


def test_answers_come_without_what_the_reader_writes_around_them(readers, groups, accelerator, monkeypatch):
    prompts = Prompts(answer="answer: {answer}")
    written = tokenise_targets(readers["t5"], ["snow"], prompts)
    monkeypatch.setattr(readers["t5"], "generate", lambda ids, mask, *, max_tokens: written.expand(len(ids), -1))
    answers = answer_groups(readers["t5"], groups[1:3], prompts, batch=2, accelerator=accelerator)
    assert answers == {"q1": "snow", "q2": "snow"}
