import pytest
import torch

from retort.losses.listwise import kl, marginal_likelihood
from retort.teachers.fid.decoding import IGNORED
from retort.teachers.fid.encoding import encode_passages
from retort.teachers.fid.likelihood import alone, as_fusion, emdr2, loop, pdist, per_token

pytestmark = pytest.mark.usefixtures("_no_grad")

KINDS = ["t5", "bart", "bert", "copying"]
LABELS = torch.tensor([[11, 12, 13], [90, 80, IGNORED]])
every_kind = pytest.mark.parametrize("kind", KINDS)
both_levels = pytest.mark.parametrize("level", ["token", "sequence"])


@pytest.fixture(scope="module")
def inputs(atlas):
    return tuple(torch.tensor(atlas[name]) for name in ("ids", "mask", "labels"))


def close(found, wanted, atol=1e-5):
    torch.testing.assert_close(found.double(), torch.as_tensor(wanted).double(), atol=atol, rtol=1e-5)


# ---- the reference's numbers


def test_pdist_is_the_references(golden_t5, inputs, atlas):
    close(pdist(golden_t5, *inputs), atlas["ppmean"])


def test_loop_is_the_references(golden_t5, inputs, atlas):
    close(loop(golden_t5, *inputs), atlas["loop"])


@pytest.mark.parametrize(("level", "name"), [("token", "emdr_loss_Tg1"), ("sequence", "emdr_paper_sequence_level")])
def test_emdr2_is_the_references_without_a_temperature_on_the_vocabulary(golden_t5, inputs, atlas, level, name):
    ids, mask, labels = inputs
    retriever = (torch.tensor(atlas["retr_score"]) / 0.5).log_softmax(-1)
    tokens = alone(as_fusion(golden_t5), encode_passages(golden_t5, ids, mask), ids, mask, labels)
    close(emdr2(tokens, retriever, labels, level=level), atlas[name])
    vocabulary = torch.tensor(atlas["emdr_logits"]).log_softmax(-1).view(2, 4, 5, 64)
    close(emdr2(vocabulary, retriever, labels, level=level), atlas[name])


@pytest.mark.parametrize("name", ["ppmean", "loop"])
def test_the_kl_of_a_signal_is_the_references_over_the_number_of_passages(atlas, name):
    gold, student = torch.tensor(atlas[name]) / 0.1, torch.tensor(atlas["retr_score"]) / 0.5
    close(kl(student, gold).mean() / 4, atlas[f"kl_{name}"])


def test_the_objective_is_emdr2_on_the_sequence_level_row_by_row(golden_t5, inputs, atlas):
    ids, mask, labels = inputs
    student = torch.tensor(atlas["retr_score"]) / 0.5
    tokens = alone(as_fusion(golden_t5), encode_passages(golden_t5, ids, mask), ids, mask, labels)
    close(marginal_likelihood(student, tokens.sum(-1)).mean(), atlas["emdr_paper_sequence_level"], atol=2e-5)


# ---- properties


@every_kind
def test_pdist_of_a_passage_is_the_readers_likelihood_of_it_alone(readers, passages, kind):
    ids, mask = passages
    found = pdist(readers[kind], ids, mask, LABELS)
    for passage in range(4):
        single = readers[kind](ids[:, [passage]], mask[:, [passage]], LABELS)
        close(found[:, passage], single.sum(-1) / torch.tensor([3, 2]))


@every_kind
def test_loop_is_what_the_answer_costs_without_the_passage(readers, passages, kind):
    """The slow way: the passage is taken out before the reader sees the question."""
    ids, mask = passages
    found = loop(readers[kind], ids, mask, LABELS)
    for passage in range(4):
        rest = [other for other in range(4) if other != passage]
        without = readers[kind](ids[:, rest], mask[:, rest], LABELS)
        close(found[:, passage], -without.sum(-1) / torch.tensor([3, 2]))


@every_kind
@pytest.mark.parametrize("signal", [pdist, loop])
def test_order_padding_and_missing_passages_change_nothing(readers, passages, kind, signal):
    ids, mask = passages
    found, order = signal(readers[kind], ids, mask, LABELS), torch.tensor([2, 0, 3, 1])
    wider = [torch.nn.functional.pad(tensor[:, order], (0, 3, 0, 1)) for tensor in (ids, mask)]
    longer = torch.nn.functional.pad(LABELS, (0, 2), value=IGNORED)
    again = signal(readers[kind], *wider, longer)
    close(again[:, :4], found[:, order])
    assert again[:, 4].tolist() == [-torch.inf, -torch.inf]


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_loop_makes_the_keys_and_values_of_a_questions_passages_once(readers, passages, kind):
    """One row of each layer's two projections a question, although four rows are decoded."""
    ids, mask = passages
    names = {"t5": ("EncDecAttention.k", "EncDecAttention.v"), "bart": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
             "bert": ("crossattention.self.key", "crossattention.self.value")}[kind]  # fmt: skip
    model, rows = readers[kind].model, []
    projections = [module for name, module in model.named_modules() if name.endswith(names)]
    hooks = [one.register_forward_hook(lambda module, given, made: rows.append(len(made))) for one in projections]
    loop(readers[kind], ids, mask, LABELS)
    for hook in hooks:
        hook.remove()
    assert len(projections) == 4
    assert rows == [1] * (2 * len(projections))


def test_a_bare_model_scores_as_its_reader_does(readers, passages):
    close(pdist(readers["t5"].model, *passages, LABELS), pdist(readers["t5"], *passages, LABELS))


def test_a_question_with_one_passage_cannot_lose_it(readers, passages):
    ids, mask = passages
    mask = mask * torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])[..., None]
    with pytest.raises(ValueError, match=r"leaves nothing to read \(rows \[0\] of the batch\)"):
        loop(readers["t5"], ids * mask, mask, LABELS)


@both_levels
def test_emdr2_of_one_passage_is_the_readers_own_loss(readers, passages, level):
    ids, mask = (tensor[:, :1] for tensor in passages)
    log_probs, retriever = readers["t5"](ids, mask, LABELS), torch.zeros(2, 1)
    wanted = -log_probs.sum() / 5 if level == "token" else -log_probs.sum(-1).mean()
    close(emdr2(log_probs[:, None], retriever, LABELS, level=level), wanted)


def test_with_targets_of_one_token_both_levels_agree(readers, passages):
    labels, retriever = LABELS[:, :1], torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    reader = readers["bart"]
    tokens = alone(reader, encode_passages(reader.model, *passages), *passages, labels)
    close(emdr2(tokens, retriever, labels, level="token"), emdr2(tokens, retriever, labels, level="sequence"))


@both_levels
def test_the_gradient_of_emdr2_reaches_the_retriever_and_agrees_with_finite_differences(level):
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64) - 3
    with torch.enable_grad():
        student = torch.randn(2, 4, generator=rng, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: emdr2(tokens, s.log_softmax(-1), LABELS, level=level), student)


def test_the_gradient_of_the_marginal_is_that_of_the_kl_from_the_posterior():
    rng = torch.Generator().manual_seed(2)
    likelihood = torch.randn(3, 5, generator=rng, dtype=torch.float64) - 4
    with torch.enable_grad():
        student = torch.randn(3, 5, generator=rng, dtype=torch.float64).requires_grad_()
        posterior = (student.log_softmax(-1) + likelihood).detach()
        ours = torch.autograd.grad(marginal_likelihood(student, likelihood).sum(), student)[0]
        wanted = torch.autograd.grad(kl(student, posterior).sum(), student)[0]
    close(ours, wanted, atol=1e-12)


def test_the_mean_over_tokens_leaves_pads_out():
    assert per_token(torch.tensor([[[-1.0, -3.0, 0.0]]]), torch.tensor([[5, 6, IGNORED]])).tolist() == [[-2.0]]
