import json

import cross_encoder
import pytest
import speed

from tiny import tiny_encoder


@pytest.fixture
def body(data, tmp_path):
    speed.real_texts.cache_clear()
    yield str(tiny_encoder(tmp_path))
    speed.real_texts.cache_clear()


def test_both_sides_score_alike_and_the_line_holds_their_ratio(body, capsys):
    cross_encoder.main(["--pairs", "30", "--tokens", "40", "--repeats", "2", "--model", body])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["pairs"] == 32
    assert line["largest difference of scores"] < 1e-5
    seconds = line["seconds"]
    assert line["ratio"]["CrossEncoder.predict"] == pytest.approx(
        seconds["CrossEncoder.predict"] / seconds["retort"], rel=1e-2
    )
    assert line["targets"][0]["measured"] == pytest.approx(line["ratio"]["CrossEncoder.predict"], rel=1e-2)


def test_the_random_head_is_the_same_each_time_and_tells_pairs_apart(body):
    pairs = [("where is the cat", "the red cat"), ("where is the dog", "a hill by the lake")]
    first, second = (cross_encoder.random_ranker(body, 40).predict(pairs) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert abs(first[0] - first[1]) > 1e-4
