import json

import numpy as np
import pytest
import search_speed


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")  # in the peer's product
@pytest.mark.parametrize(("search", "scale"), [("dense", 0.005), ("sparse", 0.01), ("late_interaction", 0.02)])
def test_both_sides_find_the_same_and_the_line_says_how_much_faster(search, scale, capsys):
    search_speed.main(["--only", search, "--scale", str(scale), "--repeats", "1"])
    line = json.loads(capsys.readouterr().out)
    (alike,) = (one["verdict"] for one in line["targets"] if one["what"].endswith(": results"))
    assert line["search"] == search
    assert alike == "pass"
    assert line.get("largest difference of scores", 0) < 1e-4
    assert line["seconds"]["ours"] > 0


def test_sparse_vectors_of_one_seed_are_the_same_and_within_the_vocabulary():
    one, two = (search_speed.weights(np.random.default_rng(3), 4, 5) for _ in range(2))
    assert (one != two).nnz == 0
    assert one.shape == (4, search_speed.VOCABULARY)
    assert (np.diff(one.indptr) <= 5).all()
