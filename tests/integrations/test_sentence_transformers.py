"""Objectives in sentence-transformers' own trainers: their losses where both have one, ours where they have none."""

import logging

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorDistillKLDivLoss,
    MultiVectorMarginMSELoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sparse_encoder.losses import SparseDistillKLDivLoss, SpladeLoss
from transformers import BertForMaskedLM

from retort.config import ObjectiveSettings
from retort.integrations.sentence_transformers import ObjectiveLoss
from retort.losses import build, listwise
from retort.losses.objectives import BKL, CKL, KL, CandidateMass, Flops, InfoNCE, MarginMSE
from retort.tensors import Signals, Term
from tiny import tiny_bert, tiny_student, tiny_tokenizer

QUERIES = ["who is the king of snow", "what is the sea", "why is the moon white", "where is the old ship"]
PASSAGES = [
    ["the king of the north", "the sea is blue", "a short book", "bread"],
    ["the sea is water", "the king of snow and ice in a long cold winter", "light", "a dog and a cat"],
    ["the moon is white light", "a white horse", "the night", "seven stones"],
    ["the old ship is at sea", "an old house", "the ship of the queen", "iron"],
]
SCORES = [[6.0, 1.0, -2.0, -3.0], [5.0, 2.0, 0.5, -4.0], [3.0, 2.5, 1.0, -1.0], [7.0, 0.0, 4.0, -2.0]]
RANKS = [[2, 1, 3, 4], [1, 2, 3, 4], [3, 1, 2, 9], [1, 4, 2, 3]]
TRAINERS = {
    "dense": (SentenceTransformerTrainer, SentenceTransformerTrainingArguments, SentenceTransformer),
    "sparse": (SparseEncoderTrainer, SparseEncoderTrainingArguments, SparseEncoder),
    "late": (MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments, MultiVectorEncoder),
}


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR)  # notes on how a new model was put together, and that a scheduler was added


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer(root / "encoder")
    bert = tiny_bert(len(tokenizer))
    bert.save_pretrained(root / "encoder")
    tokenizer.save_pretrained(root / "masked")
    masked = BertForMaskedLM(bert.config)
    masked.bert.load_state_dict(bert.state_dict(), strict=False)
    masked.save_pretrained(root / "masked")
    return {"dense": tiny_student(root / "tiny"), "sparse": root / "masked", "late": root / "encoder"}


def opened(folders, kind, similarity=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TRAINERS[kind][2](str(folders[kind]), device="cpu", similarity_fn_name=similarity)


def columns(model):
    """The texts as a trainer's collator hands them over: a dict for each column."""
    texts = [QUERIES, *map(list, zip(*PASSAGES, strict=True))]
    tasks = ["query", *["document"] * len(PASSAGES[0])]
    late = isinstance(model, MultiVectorEncoder)
    made = [model.preprocess(column, task=task if late else None) for column, task in zip(texts, tasks, strict=True)]
    return [features | ({"task": task} if late else {}) for features, task in zip(made, tasks, strict=True)]


def gradients(model, loss, *labels):
    """Value and gradients of a loss on the four queries."""
    model.zero_grad()
    value = loss(columns(model), *labels)
    value.backward()
    return value.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


EQUALS = {
    "kl, dense": ("dense", "dot", KL(), {}, DistillKLDivLoss),
    "kl, late": ("late", None, KL(), {}, MultiVectorDistillKLDivLoss),
    "margin_mse, dense": ("dense", "dot", MarginMSE(), {}, MarginMSELoss),
    "margin_mse, late": ("late", None, MarginMSE(), {}, MultiVectorMarginMSELoss),
    "info_nce, dense": ("dense", "cosine", InfoNCE(), {"scale": 20.0}, MultipleNegativesRankingLoss),
    "info_nce, late": ("late", None, InfoNCE(), {}, MultiVectorMultipleNegativesRankingLoss),
}


@pytest.mark.parametrize("case", EQUALS)
def test_where_the_library_has_the_loss_too_value_and_gradient_are_the_same(folders, case):
    kind, similarity, objective, settings, theirs = EQUALS[case]
    model = opened(folders, kind, similarity)
    labels = torch.tensor(SCORES)
    ours = gradients(model, ObjectiveLoss(model, objective, **settings), labels)
    torch.testing.assert_close(ours, gradients(model, theirs(model), labels), rtol=1e-4, atol=1e-5)
    assert ours[0] > 0.01


def test_the_rank_bias_reads_the_ranks_behind_the_scores(folders):
    model = opened(folders, "dense", "dot")
    loss = ObjectiveLoss(model, CKL(gamma=2.0, alpha=1.0), scale=0.1, labels=("scores", "ranks"))
    value = loss(columns(model), torch.cat([torch.tensor(SCORES), torch.tensor(RANKS)], 1)).item()
    assert value == pytest.approx(_ckl(model, alpha=1.0, ranks=torch.tensor(RANKS)), abs=1e-5)
    assert value != pytest.approx(_ckl(model), abs=1e-3)


def _ckl(model, **settings):
    """The value by hand, from vectors encoded one column at a time."""
    with torch.no_grad():
        query, *passages = (model(features)["sentence_embedding"] for features in columns(model))
    scores = torch.stack([(query * column).sum(-1) for column in passages], 1)
    first = torch.tensor([[True, False, False, False]] * len(QUERIES))
    return listwise.ckl(0.1 * scores, torch.tensor(SCORES), first, gamma=2.0, **settings).mean().item()


def test_positives_are_the_first_passages_or_those_that_the_label_marks(folders):
    model = opened(folders, "dense", "dot")
    scores, marks = torch.tensor(SCORES), torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 4)
    first, two, marked = (
        ObjectiveLoss(model, BKL(lam=1.0), **settings)(columns(model), labels)
        for settings, labels in (
            ({}, scores),
            ({"positives": 2}, scores),
            ({"labels": ("positive", "scores")}, torch.cat([marks, scores], 1)),
        )
    )
    assert two == marked != first


def test_in_batch_scores_place_each_querys_own_passages_at_its_candidates(folders):
    model = opened(folders, "dense", "dot")
    seen = {}

    class Look(InfoNCE):
        needs = frozenset({"scores", "inbatch", "passage_emb"})

        def __call__(self, signals: Signals, target, batch):
            seen.update(signals=signals, batch=batch)
            return signals.scores.sum(1)

    ObjectiveLoss(model, Look(), scale=3.0)(columns(model), torch.tensor(SCORES))
    signals, candidates = seen["signals"], seen["batch"].candidates
    torch.testing.assert_close(signals.inbatch.gather(1, candidates), signals.scores)
    second = model(columns(model)[2])["sentence_embedding"]  # the second passage of each query
    torch.testing.assert_close(signals.passage_emb[candidates[:, 1]], second)


def test_several_objectives_come_back_by_name_with_their_coefficients(folders):
    model = opened(folders, "sparse")
    settings = [
        ObjectiveSettings(name="kl", coefficient=0.5),
        ObjectiveSettings(name="flops", coefficient=2.0, side="query"),
    ]
    loss = ObjectiveLoss(model, build(settings))
    with torch.no_grad():
        parts = loss(columns(model), torch.tensor(SCORES))
        alone = ObjectiveLoss(model, KL())(columns(model), torch.tensor(SCORES))
        queries = model(columns(model)[0])["sentence_embedding"]
    torch.testing.assert_close(parts, {"kl": 0.5 * alone, "flops_query": 2.0 * queries.mean(0).square().sum()})


def test_a_coefficient_grows_over_the_batches_trained_on_and_an_evaluation_is_none(folders):
    model = opened(folders, "dense", "dot")
    loss = ObjectiveLoss(model, {"mass": Term(CandidateMass(), warmup_steps=2)})
    values = [loss(columns(model), torch.tensor(SCORES))["mass"].item() for _ in range(2)]
    with torch.no_grad():
        values += [loss(columns(model), torch.tensor(SCORES))["mass"].item() for _ in range(2)]
    assert values[0] == 0.0
    assert values[2] == values[3] == pytest.approx(4 * values[1])


def test_splade_loss_adds_its_penalties_to_an_objective(folders):
    model = opened(folders, "sparse")
    weights = {"document_regularizer_weight": 0.1, "query_regularizer_weight": 0.2}
    found, expected = (
        SpladeLoss(model, inner, **weights)(columns(model), torch.tensor(SCORES))
        for inner in (ObjectiveLoss(model, KL()), SparseDistillKLDivLoss(model, temperature=1.0))
    )
    assert found.keys() == expected.keys() == {"base_loss", "document_regularizer_loss", "query_regularizer_loss"}
    torch.testing.assert_close(found, expected)


RUNS = {
    "dense": lambda model: ObjectiveLoss(
        model, {"kl": Term(KL()), "mass": Term(CandidateMass(), 0.5)}, scale=20.0, labels=("scores", "ranks")
    ),
    "sparse": lambda model: SpladeLoss(
        model, ObjectiveLoss(model, CKL(alpha=1.0), labels=("scores", "ranks")),
        document_regularizer_weight=1e-3, query_regularizer_weight=1e-3,
    ),
    "late": lambda model: ObjectiveLoss(model, CKL(gamma=1.0, alpha=1.0), labels=("scores", "ranks")),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")  # torch's, of the sparse model's similarity
@pytest.mark.parametrize("kind", RUNS)
def test_a_trainer_brings_the_loss_down_and_the_saved_model_scores_alike(folders, kind, tmp_path):
    trainer_class, arguments_class, model_class = TRAINERS[kind]
    model = opened(folders, kind)
    data = {f"passage_{n}": list(column) for n, column in enumerate(zip(*PASSAGES, strict=True), start=1)}
    label = [[*scores, *ranks] for scores, ranks in zip(SCORES, RANKS, strict=True)]
    arguments = arguments_class(
        output_dir=str(tmp_path / "out"), max_steps=8, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"query": QUERIES, **data, "label": label}),
        loss=RUNS[kind](model),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    reloaded = model_class(str(tmp_path / "model"), device="cpu")
    torch.testing.assert_close(*(_similarities(one) for one in (model, reloaded)))


def _similarities(model):
    return model.similarity(model.encode_query(QUERIES), model.encode_document(PASSAGES[0]))


@pytest.mark.parametrize(
    ("kind", "objective", "settings", "message"),
    [
        ("late", Flops(), {}, r"reads 'passage_emb', but this model gives inbatch, scores"),
        ("dense", CKL(alpha=1.0), {}, r"reads 'ranks', but the labels hold scores: append N ranks"),
        ("dense", KL(), {"labels": ("ranks",)}, r"labels are \('ranks',\), expected 'scores'"),
        ("dense", KL(), {"labels": ("scores", "scores")}, r"once each"),
        ("dense", KL(), {"labels": ("scores", "grades")}, r"of scores, positive, ranks"),
        ("dense", KL(), {"scale": 0.0}, r"scale is 0.0 and positives 1"),
        ("dense", KL(), {"positives": 0}, r"positives 0: expected more than 0, and at least 1"),
    ],
)
def test_what_cannot_work_is_refused_when_the_loss_is_made(folders, kind, objective, settings, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveLoss(opened(folders, kind), objective, **settings)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (None, {}, r"found no label column with 4 passages a query, expected \(4, 4\)"),
        (torch.zeros(4, 3), {}, r"labels of shape \(4, 3\) with 4 passages a query, expected \(4, 4\)"),
        (torch.zeros(4), {}, r"labels of shape \(4,\)"),
        (torch.zeros(4, 4), {"labels": ("scores", "ranks")}, r"expected \(4, 8\): all passages' scores, then their ranks"),
        (torch.full((4, 4), torch.nan), {}, r"teacher scores that are not finite"),
        (torch.zeros(4, 8), {"labels": ("scores", "ranks")}, r"found rank 0, expected ranks from 1"),
        (torch.full((4, 8), 0.5), {"labels": ("scores", "positive")}, r"other than 0 and 1"),
        (torch.zeros(4, 8), {"labels": ("scores", "positive")}, r"found no positive among 4 passages"),
        (torch.zeros(4, 4), {"positives": 4}, r"found nothing but positives among 4 passages"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused_at_the_first_batch(folders, labels, settings, message):
    model = opened(folders, "dense", "dot")
    with pytest.raises(ValueError, match=message):
        ObjectiveLoss(model, CKL(), **settings)(columns(model), labels)


def test_a_list_of_one_passage_is_refused(folders):
    model = opened(folders, "dense", "dot")
    with pytest.raises(ValueError, match="found 1 passage a query, expected at least 2"):
        ObjectiveLoss(model, KL())(columns(model)[:2], torch.zeros(4, 1))


def test_a_model_card_can_name_every_setting(folders):
    shown = ObjectiveLoss(opened(folders, "dense"), BKL(lam=0.5), scale=20.0).get_config_dict()
    assert "lam=0.5" in shown["terms"]["objective"]
    assert (shown["scale"], shown["positives"], shown["labels"]) == (20.0, 1, ["scores"])
