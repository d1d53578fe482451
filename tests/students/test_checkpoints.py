"""Model folders: what is broken in one is named before anything else is made of it."""

import pytest

from retort.config import StudentModel
from retort.students.loading import load_student
from tiny import tiny_encoder, tiny_masked_model


@pytest.mark.parametrize(
    ("kind", "make"), [("dense", tiny_encoder), ("sparse", tiny_masked_model), ("late_interaction", tiny_encoder)]
)
@pytest.mark.parametrize("kept", [0.9, 0.001, 0.0])
def test_a_weight_file_that_breaks_off_is_refused_with_what_to_do(tmp_path, kind, make, kept):
    weights = make(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(kept * weights.stat().st_size)])
    with pytest.raises(ValueError, match=r"student model '.*' holds a broken weight file .*: fetch or copy the model again"):
        load_student(StudentModel(model=str(weights.parent), kind=kind, query_tokens=20, passage_tokens=48))
