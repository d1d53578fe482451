from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from retort.config import StudentModel
from retort.distil.method import Method
from retort.distil.roster import Roster
from retort.distil.targets import FromLabels
from retort.losses.objectives import BKL, KL, MSE
from retort.students.loading import load_student
from retort.tensors import Batch, Encoded, Signals, Term
from tiny import tiny_student


@dataclass(frozen=True)
class NeedsSteps:
    needs: ClassVar[frozenset[str]] = frozenset({"steps"})
    reads: ClassVar[frozenset[str]] = frozenset({"ranks"})

    def __call__(self, signals, target, batch):
        raise AssertionError


@pytest.fixture(scope="module")
def roster(tmp_path_factory):
    folder = tiny_student(tmp_path_factory.mktemp("model"))
    return Roster.of(load_student(StudentModel(model=str(folder), query_tokens=20, passage_tokens=48, scale=1.0)))


LABELS = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [5.0, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
BATCH = Batch((), (), torch.tensor([[0, 1, 2]] * 3), MASK, ~MASK, labels=LABELS)
ENCODED = Encoded(torch.eye(3)), Encoded(torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0], [0.0, 1.0, 1.0]]))


def test_the_loss_of_a_row_is_the_weighted_sum_of_its_objectives(roster):
    rows = Method(objectives={"kl": Term(KL(), 2.0), "mse": Term(MSE(), 0.5)}).row_losses(BATCH, roster, *ENCODED)
    expected = 2.0 * rows.named["kl"] + 0.5 * rows.named["mse"]
    torch.testing.assert_close(rows.total[[0, 2]], expected[[0, 2]])


def test_a_row_whose_drawn_labels_are_all_equal_costs_nothing(roster):
    assert Method(objectives={"kl": Term(KL())}).row_losses(BATCH, roster, *ENCODED).total[1] == 0


def test_the_weighter_scales_the_rows(roster):
    halved = Method(objectives={"kl": Term(KL())}, weighter=lambda *_: torch.tensor([0.5, 0.5, 0.0]))
    plain = Method(objectives={"kl": Term(KL())})
    found, expected = (method.row_losses(BATCH, roster, *ENCODED).total for method in (halved, plain))
    torch.testing.assert_close(found, expected * torch.tensor([0.5, 0.5, 0.0]))


def test_the_links_of_the_policy_act_on_the_labels_in_order(roster):
    policy = FromLabels(links=(lambda scores, mask: scores + 1, lambda scores, mask: scores * 10))
    assert policy(BATCH, roster, Signals()).scores.tolist() == ((LABELS + 1) * 10).tolist()


def test_signals_that_the_student_cannot_give_are_refused_by_name(roster):
    with pytest.raises(ValueError, match=r"odd needs the signals \['steps'\], but the student \(DenseStudent\)"):
        Method(objectives={"odd": Term(NeedsSteps())}).check(roster.student)


def test_a_method_asks_for_what_its_objectives_read():
    method = Method(objectives={"kl": Term(KL()), "odd": Term(NeedsSteps()), "bkl": Term(BKL())})
    assert method.needs == {"scores", "steps"}
    assert method.reads == {"positive", "ranks"}


def test_a_coefficient_grows_with_the_square_of_the_step_until_its_warm_up_is_over(roster):
    method = Method(objectives={"kl": Term(KL(), 8.0, warmup_steps=4)})
    plain = Method(objectives={"kl": Term(KL())}).row_losses(BATCH, roster, *ENCODED).total
    for step, expected in [(0, 0.0), (1, 0.5), (2, 2.0), (4, 8.0), (9, 8.0)]:
        found = method.row_losses(replace(BATCH, step=step), roster, *ENCODED).total
        torch.testing.assert_close(found, expected * plain)
