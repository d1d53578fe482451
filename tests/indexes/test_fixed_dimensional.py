"""Fixed-dimensional encodings: cells worked out in plain loops, a bound that always holds, and no bias from projecting."""

import numpy as np
import pytest

from retort.indexes.fixed_dimensional import EncodingSettings, FixedDimensional
from retort.indexes.multi_vector import maxsim_scores
from retort.tensors import TokenVectors

D = 8


def texts(*lengths, seed=0, topics=4):
    """Unit vectors around a few topics, as the tokens of texts are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((topics, D))
    vectors = centres[rng.integers(0, topics, sum(lengths))] + 0.5 * rng.standard_normal((sum(lengths), D))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors.astype(np.float32), np.cumsum([0, *lengths]))


def drawn(seed=0, **settings):
    return FixedDimensional.draw(D, EncodingSettings(**settings), seed=seed)


def estimates(encoding, queries, passages):
    return encoding.queries(queries) @ encoding.passages(passages).T


QUERIES, PASSAGES = texts(*[5] * 12, seed=1), texts(*range(1, 41), seed=2)


def in_a_loop(encoding, tokens, *, passage):
    """The definition of the paper's section 2, token by token."""
    whole = []
    for text in range(len(tokens)):
        for planes, projection in zip(encoding.planes, encoding.projections, strict=True):
            patterns = [tuple(token @ planes > 0) for token in tokens[text]]
            projected = tokens[text] @ projection
            for cell in range(2 ** planes.shape[1]):
                pattern = tuple(bool(cell >> bit & 1) for bit in range(planes.shape[1]))
                mine = projected[[one == pattern for one in patterns]]
                if passage and not len(mine):
                    far = [sum(a != b for a, b in zip(one, pattern, strict=True)) for one in patterns]
                    mine = projected[[int(np.argmin(far))]]
                whole.append(mine.mean(0) if passage else mine.sum(0) / len(encoding.planes))
    return np.concatenate(whole).reshape(len(tokens), -1)


def test_encodings_are_the_papers_definition_token_by_token():
    encoding = drawn(repetitions=3, planes=3, projected=4)
    assert encoding.dimensions == 3 * 2**3 * 4
    np.testing.assert_allclose(encoding.queries(QUERIES), in_a_loop(encoding, QUERIES, passage=False), atol=1e-6)
    np.testing.assert_allclose(encoding.passages(PASSAGES), in_a_loop(encoding, PASSAGES, passage=True), atol=1e-6)


def test_without_projection_an_estimate_never_exceeds_maxsim_and_more_cells_come_nearer():
    exact = maxsim_scores(QUERIES, PASSAGES)
    gaps = []
    for planes in (1, 4, 7):
        gap = exact - estimates(drawn(repetitions=5, planes=planes, projected=None), QUERIES, PASSAGES)
        assert gap.min() > -1e-5
        gaps.append(gap.mean())
    assert gaps == sorted(gaps, reverse=True)


def test_a_passage_of_one_token_is_estimated_exactly():
    one = texts(1, 1, 1, seed=5)
    estimate = estimates(drawn(repetitions=2, planes=5, projected=None), QUERIES, one)
    np.testing.assert_allclose(estimate, maxsim_scores(QUERIES, one), atol=1e-5)


@pytest.mark.parametrize(("repetitions", "settings"), [(300, {"projected": 4}), (1, {"projected": None, "last": 20_000})])
def test_projections_add_no_bias(repetitions, settings):
    tokens, few = texts(3, 3, seed=6), texts(4, 2, 5, seed=7)
    plain, projected = (
        estimates(drawn(repetitions=repetitions, planes=2, **kind), tokens, few)
        for kind in ({"projected": None}, settings)  # one seed: the same planes
    )
    assert np.abs(plain).max() > 1.5
    assert np.abs(plain - projected).max() < 0.15


def test_estimates_rank_passages_nearly_as_maxsim_does():
    exact, guessed = maxsim_scores(QUERIES, PASSAGES), estimates(drawn(), QUERIES, PASSAGES)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(exact, guessed, strict=True)]
    assert min(correlations) > 0.7


def test_a_text_without_a_token_is_all_zeros_and_changes_no_other():
    encoding = drawn(repetitions=2, planes=2)
    alone, among = texts(3, 2), texts(0, 3, 0, 2, 0)
    for encode in (encoding.queries, encoding.passages):
        encoded = encode(among)
        assert not encoded[[0, 2, 4]].any()
        np.testing.assert_array_equal(encoded[[1, 3]], encode(alone))
    assert encoding.passages(texts(0, 0)).tolist() == np.zeros((2, encoding.dimensions)).tolist()


@pytest.mark.parametrize("settings", [{}, {"projected": None}, {"last": 32}])
def test_a_seed_draws_the_same_and_what_is_written_is_read(tmp_path, settings):
    encoding = drawn(3, **settings)
    for name, other in (("a", drawn(3, **settings)), ("b", drawn(4, **settings))):
        other.write(tmp_path / name)
        same = np.array_equal(FixedDimensional.open(tmp_path / name).queries(QUERIES), encoding.queries(QUERIES))
        assert same == (name == "a")


def test_the_dimensions_are_those_of_the_last_projection():
    assert drawn().dimensions == 20 * 16 * 8
    assert drawn(last=32).passages(PASSAGES).shape == (40, 32)


@pytest.mark.parametrize("wrong", [{"repetitions": 0}, {"planes": 0}, {"planes": 9}, {"projected": 0}, {"last": -1}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="expected at least 1 everywhere and at most 8 planes"):
        EncodingSettings(**wrong)
