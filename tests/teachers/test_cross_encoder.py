"""The cross-encoder as a teacher: ours against the stock model's own predictions."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from retort.records import Group, Passage
from retort.teachers.cross_encoder import CrossEncoderTeacher
from retort.teachers.loading import load_cross_encoder
from tiny import tiny_cross_encoder, tiny_encoder, tiny_world

CORPUS, QUERIES, RUN = tiny_world(passages=12, queries=5)
GROUPS = [Group(query, tuple(CORPUS[row] for row in RUN.of(query.id)[0].tolist())) for query in QUERIES]
PLAIN = [[f"{p.title} {p.text}".strip() for p in group.passages] for group in GROUPS]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> CrossEncoder:
    return load_cross_encoder(str(tiny_cross_encoder(tmp_path_factory.mktemp("ranker"), dropout=0.2)))


@pytest.fixture(scope="module")
def headed(tmp_path_factory):
    """A cross-encoder whose head is a module of its own, with the activation that is asked for."""
    folder = tiny_encoder(tmp_path_factory.mktemp("encoder"))

    def build(activation):
        encoder = Transformer(str(folder))
        width = encoder.get_embedding_dimension()
        head = Dense(width, 1, activation_function=activation, module_output_name="scores")
        torch.nn.init.normal_(head.linear.weight, std=20.0, generator=torch.Generator().manual_seed(0))
        return CrossEncoder(modules=[encoder, Pooling(width, "mean"), head], device="cpu")

    return build


def flat(scores):
    return np.concatenate(scores)


def predicted(model, **options):
    pairs = [(group.query.text, text) for group, texts in zip(GROUPS, PLAIN, strict=True) for text in texts]
    return model.predict(pairs, show_progress_bar=False, **options)


def test_scores_are_the_stock_models_logits_and_not_its_sigmoids(model):
    scores = flat(CrossEncoderTeacher(model, tokens=64).score(GROUPS))
    np.testing.assert_allclose(scores, predicted(model, activation_fn=torch.nn.Identity()), atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), predicted(model), atol=1e-5)
    assert scores.min() < 0
    assert scores.std() > 0.5


def test_batches_by_length_score_as_one_pair_at_a_time(model):
    fast = CrossEncoderTeacher(model, tokens=64, batch_tokens=200).score(GROUPS)
    slow = CrossEncoderTeacher(model, tokens=64, batch_tokens=1).score(GROUPS)
    assert [len(scores) for scores in fast] == [len(group.passages) for group in GROUPS]
    np.testing.assert_allclose(flat(fast), flat(slow), atol=1e-5)


def test_a_groups_scores_do_not_depend_on_the_groups_beside_it(model):
    teacher = CrossEncoderTeacher(model, tokens=64)
    together = teacher.score(GROUPS)
    for group, scores in zip(GROUPS, together, strict=True):
        np.testing.assert_allclose(teacher.score([group])[0], scores, atol=1e-5)


def test_the_same_groups_get_the_same_bits_in_training_mode_too(model):
    teacher = CrossEncoderTeacher(model, tokens=64)
    first = teacher.score(GROUPS)
    model.train()
    assert all((a == b).all() for a, b in zip(first, teacher.score(GROUPS), strict=True))
    assert model.training
    model.eval()


def test_the_passage_is_written_as_its_format_says(model):
    untitled = CrossEncoderTeacher(model, "{text}", tokens=64).score(GROUPS)
    bare = [Group(g.query, tuple(Passage(p.id, "", p.text) for p in g.passages)) for g in GROUPS]
    np.testing.assert_array_equal(flat(untitled), flat(CrossEncoderTeacher(model, tokens=64).score(bare)))
    assert np.abs(flat(untitled) - flat(CrossEncoderTeacher(model, tokens=64).score(GROUPS))).max() > 0.01


def test_what_stands_behind_the_last_token_is_not_read(model):
    query, passage = GROUPS[0].query, GROUPS[0].passages[0]
    cut, whole = CrossEncoderTeacher(model, tokens=16), CrossEncoderTeacher(model, tokens=64)
    texts = [passage.text, passage.text + " king queen river"]
    groups = [Group(query, (Passage("p", "", 8 * (text + " ")),)) for text in texts]
    assert cut.score(groups)[0] != whole.score(groups)[0]
    long = [Group(query, (Passage("p", "", " ".join(["snow"] * 40 + [end])),)) for end in ("king", "rain")]
    assert cut.score(long)[0] == cut.score(long[::-1])[0]


def test_every_forward_pass_is_inside_of_the_given_precision(model):
    opened = []

    @contextmanager
    def precision():
        opened.append(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    half = flat(CrossEncoderTeacher(model, tokens=64, autocast=precision).score(GROUPS))
    whole = flat(CrossEncoderTeacher(model, tokens=64).score(GROUPS))
    assert opened
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.5


def test_no_groups_and_groups_without_passages_get_no_scores(model):
    teacher = CrossEncoderTeacher(model, tokens=64)
    assert teacher.score([]) == []
    empty, scores, last = teacher.score([Group(QUERIES[0], ()), GROUPS[0], Group(QUERIES[1], ())])
    assert len(empty) == len(last) == 0
    np.testing.assert_allclose(scores, teacher.score([GROUPS[0]])[0], atol=1e-5)


def test_a_score_that_is_not_finite_names_its_pair(tmp_path):
    model = load_cross_encoder(str(tiny_cross_encoder(tmp_path)))
    snow = model.tokenizer.convert_tokens_to_ids("snow")
    with torch.no_grad():
        model.transformers_model.get_input_embeddings().weight[snow] = torch.nan
    passages = (Passage("p1", "", "the rain"), Passage("p2", "", "the snow"))
    with pytest.raises(ValueError, match="cross-encoder scores query 'q0' with passage 'p2' nan"):
        CrossEncoderTeacher(model, tokens=64).score([Group(QUERIES[0], passages)])


def test_a_model_with_classes_is_refused(tmp_path):
    model = load_cross_encoder(str(tiny_cross_encoder(tmp_path, labels=3)))
    with pytest.raises(ValueError, match="gives 3 labels for a pair, expected 1"):
        CrossEncoderTeacher(model, tokens=64)


def test_more_tokens_than_positions_are_refused(model):
    with pytest.raises(ValueError, match="given 65 tokens, but its model has 64 positions"):
        CrossEncoderTeacher(model, tokens=65)


@pytest.mark.parametrize("activation", [torch.nn.Sigmoid(), torch.nn.Tanh()])
def test_a_head_that_squashes_is_refused_unless_it_is_accepted(headed, activation):
    with pytest.raises(ValueError, match=f"head ends in {type(activation).__name__}, expected raw logits"):
        CrossEncoderTeacher(headed(activation), tokens=64)
    raw = flat(CrossEncoderTeacher(headed(torch.nn.Identity()), tokens=64).score(GROUPS))
    squashed = flat(CrossEncoderTeacher(headed(activation), tokens=64, squashed=True).score(GROUPS))
    np.testing.assert_allclose(squashed, activation(torch.tensor(raw)).numpy(), atol=1e-5)


def test_a_sigmoid_inside_of_the_architecture_shows_in_the_scores(headed):
    class Inside(torch.nn.Module):
        def forward(self, features):
            return {**features, "scores": torch.special.expit(features["scores"] - 8)}

    model = headed(torch.nn.Identity())
    model.append(Inside())
    with pytest.raises(ValueError, match=r"the cross-encoder: all \d+ scores lie between 0 and 1"):
        CrossEncoderTeacher(model, tokens=64).score(GROUPS)
    accepted = flat(CrossEncoderTeacher(model, tokens=64, squashed=True).score(GROUPS))
    assert accepted.min() >= 0
    assert accepted.max() <= 1
