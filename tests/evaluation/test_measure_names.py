import subprocess
import sys

import pytest

from retort.evaluation.measure_names import answer_depths, check_measures


@pytest.mark.parametrize(
    "name",
    ["nDCG@10", "R@1", "R@100", "RR@10", "RR", "AP", "P@5", "Success@3", "R(rel=2)@5", "IPrec@0.1", "has_answer@20"],
)
def test_the_printed_name_of_a_measure_builds_it_again(name):
    assert check_measures([name]) == [name]


def test_aliases_print_as_the_measure_and_repeats_are_dropped():
    assert check_measures(["MRR@10", "NDCG@5", "RR@10"]) == ["RR@10", "nDCG@5"]


def test_depths_are_those_of_has_answer_only():
    assert answer_depths(["R@5", "has_answer@1", "has_answer@100"]) == {"has_answer@1": 1, "has_answer@100": 100}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndcg@10", r"'ndcg@10' is not known: did you mean nDCG@10"),
        ("recal@5", r"did you mean Recall@5"),
        ("has_anser@20", r"did you mean has_answer@20"),
        ("has_answer", r"has_answer@k with k of 1 or more"),
        ("has_answer@0", r"has_answer@k with k of 1 or more"),
        ("has_answer@-1", r"has_answer@k with k of 1 or more"),
        ("zzzzzzzz@1", r"'zzzzzzzz@1' is not known; expected"),
        ("R", "its cutoff"),
        ("R@0", "its cutoff"),
        ("RR@0", "its cutoff"),
        ("R@2.5", "its cutoff"),
        ("R@True", "its cutoff"),
        ("P(rel=0)@2", "its rel"),
        ("nDCG(foo=1)@10", "foo"),
        ("nDCG@", "cannot be read"),
        ("", "cannot be read"),
        ("alpha_nDCG@10", "cannot be computed on this machine"),
    ],
)
def test_a_name_that_is_not_a_measure_is_refused_with_what_to_write(name, message):
    with pytest.raises(ValueError, match=message):
        check_measures([name])


def test_no_measures_are_refused():
    with pytest.raises(ValueError, match="no measure"):
        check_measures([])


def test_a_cut_of_zero_leaves_the_process_alive():
    # pytrec_eval aborts the interpreter on a cut below 1, so the name must not get that far: tried in its own process
    code = "from retort.evaluation.measure_names import check_measures; check_measures(['P(cutoff=0)'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # an exception; an abort gives -6
    assert "ValueError: measure 'P(cutoff=0)': its cutoff" in done.stderr
