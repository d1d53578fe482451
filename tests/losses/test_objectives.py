"""Each objective hands its loss what it should: the sides at their temperatures, mask, positives, ranks, settings."""

from dataclasses import fields

import pytest
import torch

from retort.losses import inbatch, listwise, objectives, pairwise, ranking, regularisers
from retort.tensors import Batch, Signals, Target

RNG = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(3, 4, generator=RNG) for _ in range(2))
INBATCH = torch.randn(3, 9, generator=RNG)
MASK = torch.arange(4)[None] < torch.tensor([[4], [3], [2]])
POSITIVE = torch.tensor([[True, False, False, False], [False, True, False, False], [True, False, False, False]])
RANKS = torch.tensor([[2, 1, 3, 4], [9, 2, 1, 4], [5, 1, 2, 3]])
CANDIDATES = torch.tensor([[0, 1, 2, 3], [3, 4, 5, 0], [7, 8, 0, 0]])
QUERIES, PASSAGES = torch.rand(3, 5, generator=RNG), torch.rand(9, 5, generator=RNG)
BATCH = Batch((), (), CANDIDATES, MASK, POSITIVE, ranks=RANKS, step=17)
SHARES = listwise.shares(TEACHER / 0.5, MASK)
SIDES = {"student_temperature": 2.0, "teacher_temperature": 0.5}
S, T = STUDENT / 2.0, TEACHER / 0.5

CASES = [
    (objectives.KL(**SIDES), listwise.kl(S, T, MASK)),
    (objectives.ReverseKL(**SIDES), listwise.reverse_kl(S, T, MASK)),
    (objectives.JensenShannon(**SIDES), listwise.jensen_shannon(S, T, MASK)),
    (
        objectives.CKL(**SIDES, gamma=3.0, alpha=1.5, bias_positives=True),
        listwise.ckl(S, T, POSITIVE, MASK, gamma=3.0, alpha=1.5, ranks=RANKS, bias_positives=True),
    ),
    (objectives.CKL(**SIDES), listwise.ckl(S, T, POSITIVE, MASK, gamma=5.0)),
    (objectives.EMDR2(**SIDES), listwise.marginal_likelihood(S, T, MASK)),
    (objectives.BKL(**SIDES, lam=0.3), listwise.bkl(S, T, POSITIVE, MASK, lam=0.3)),
    (objectives.CrossEntropy(**SIDES), listwise.cross_entropy(S, SHARES, MASK)),
    (objectives.CrossEntropy(**SIDES, labels="hard"), listwise.cross_entropy(S, POSITIVE.float(), MASK)),
    (objectives.ListMLE(**SIDES), listwise.list_mle(S, T, MASK)),
    (objectives.LambdaLoss(**SIDES, mu=3.0), ranking.lambda_loss(S, SHARES, MASK, mu=3.0)),
    (
        objectives.LambdaLoss(**SIDES, scheme="lambda_rank"),
        ranking.lambda_loss(S, SHARES, MASK, scheme="lambda_rank"),
    ),
    (objectives.ApproxNDCG(**SIDES), ranking.approx_ndcg(S, SHARES, MASK)),
    (
        objectives.CLDRD(**SIDES, heads=(1, 2), tail=3, stage_steps=10),  # the batch's step is 17: the second stage
        ranking.cl_drd(S, ranking.drd_labels(T, POSITIVE, MASK, head=2, tail=3), MASK),
    ),
    (objectives.Flops(side="query", threshold=1), regularisers.flops(QUERIES, threshold=1).mean().expand(3)),
    (objectives.L1(), regularisers.l1(PASSAGES).mean().expand(3)),
    (objectives.RankNet(**SIDES), pairwise.ranknet(S, T, MASK)),
    (objectives.MarginMSE(**SIDES), pairwise.margin_mse(S, T, POSITIVE, MASK)),
    (objectives.MarginMSE(**SIDES, pairs="all"), pairwise.margin_mse_all(S, T, MASK)),
    (objectives.MSE(**SIDES), listwise.mse(S, T, MASK)),
    (objectives.MaxMargin(margin=0.2), pairwise.max_margin(STUDENT, TEACHER, MASK, margin=0.2)),
    (objectives.CandidateMass(student_temperature=2.0), inbatch.candidate_mass(INBATCH / 2.0, CANDIDATES, MASK)),
    (objectives.InfoNCE(student_temperature=2.0), inbatch.info_nce(INBATCH / 2.0, CANDIDATES, POSITIVE, MASK)),
]


@pytest.mark.parametrize(("objective", "expected"), CASES, ids=[str(objective) for objective, _ in CASES])
def test_an_objective_is_its_loss_on_what_the_batch_holds(objective, expected):
    target = Target(scores=TEACHER, weight=torch.ones(3), valid=torch.ones(3, dtype=torch.bool))
    given = {"scores": STUDENT, "inbatch": INBATCH, "query_emb": QUERIES, "passage_emb": PASSAGES}
    signals = Signals(**{name: given[name] for name in objective.needs})  # no more than it says it needs
    found = objective(signals, target, BATCH)
    assert found.shape == (3,)
    torch.testing.assert_close(found, expected)


def test_every_setting_of_an_objective_stands_in_its_text():
    for objective, _ in CASES:
        assert all(f"{field.name}=" in str(objective) for field in fields(objective))


def test_a_rank_bias_above_gamma_is_refused_before_training():
    with pytest.raises(ValueError, match=r"alpha is 2.0, above gamma 1.0"):
        objectives.CKL(gamma=1.0, alpha=2.0)


def test_a_rank_bias_in_a_batch_without_ranks_is_refused():
    batch = Batch((), (), CANDIDATES, MASK, POSITIVE)
    target = Target(scores=TEACHER, weight=torch.ones(3), valid=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no ranks were given"):
        objectives.CKL(alpha=1.0)(Signals(scores=STUDENT), target, batch)


def test_what_an_objective_reads_of_the_batch_follows_its_settings():
    reads = {
        objectives.KL(): set(), objectives.CKL(): {"positive"}, objectives.CKL(alpha=1.0): {"positive", "ranks"},
        objectives.BKL(): {"positive"}, objectives.CrossEntropy(): set(),
        objectives.CrossEntropy(labels="hard"): {"positive"},
        objectives.MarginMSE(): {"positive"}, objectives.MarginMSE(pairs="all"): set(), objectives.InfoNCE(): {"positive"},
        objectives.CandidateMass(): set(), objectives.CLDRD(): {"positive"}, objectives.Flops(): set(),
    }  # fmt: skip
    assert {objective: set(objective.reads) for objective in reads} == reads


@pytest.mark.parametrize(("heads", "tail"), [((), 20), ((10, 5), 20), ((5, 30), 20)])
def test_heads_that_do_not_grow_up_to_the_tail_are_refused(heads, tail):
    with pytest.raises(ValueError, match="expected heads that grow up to the tail"):
        objectives.CLDRD(heads=heads, tail=tail)
