import json

import pytest
import yaml
from pydantic import ValidationError

from retort.config import load, merged, parse

PREPARE = {"corpus": "corpus.tsv", "queries": {"train": "train.jsonl", "dev": "dev.jsonl"}}


def config(**sections):
    return parse({"prepare": PREPARE} | sections)


@pytest.fixture
def file(tmp_path):
    """Writes a config file: its text, or a smallest one with the sections given."""

    def write(text=None, **sections):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({"prepare": PREPARE} | sections) if text is None else text)
        return path

    return write


# ---- reading


def test_every_default_is_visible_and_reads_back_the_same():
    one = config(overrides={2: {"distil": {"steps": 7}}})
    values = one.model_dump(mode="json")
    assert values["distil"]["optimiser"] == {
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "warmup_steps": 1000,
        "decay_steps": None,
        "clip": 1.0,
    }
    assert parse(json.loads(json.dumps(values))) == one


def test_a_reader_keeps_its_rate_where_another_setting_of_its_optimiser_is_given():
    given = config(read={"optimiser": {"clip": 2.0}}, distil={"optimiser": {"clip": 2.0}})
    assert (given.read.optimiser.learning_rate, given.distil.optimiser.learning_rate) == (5e-5, 1e-4)


def test_heads_by_layer_read_back_from_json_whose_keys_are_strings():
    heads = {12: [3, 7], 2: []}
    reader = {"kind": "fid", "attention": {"heads": heads}}
    causal = {"kind": "language_model", "model": "m", "language": {"signal": "attention", "heads": heads}}
    one = config(label={"teachers": [reader, causal]})
    assert parse(json.loads(json.dumps(one.model_dump(mode="json")))) == one
    assert one.label.teachers[0].attention.heads == one.label.teachers[1].language.heads == heads


def test_a_ranking_is_asked_for_in_two_orders_and_a_grade_once():
    server = {"base_url": "http://localhost:1/v1"}
    judges = [{}, {"form": "grades"}, {"form": "grades", "repeats": 3, "temperature": 0.5}]
    one = config(label={"teachers": [{"kind": "judge", "model": "m", "server": server, "judge": judge} for judge in judges]})
    assert [teacher.judge.repeats for teacher in one.label.teachers] == [2, 1, 3]
    assert parse(json.loads(json.dumps(one.model_dump(mode="json")))) == one


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("5E-5", 5e-5), ("2e0", 2.0), ("1.e-3", 1e-3), ("0.5", 0.5), ("1", 1)]
)
def test_a_number_in_yaml_is_a_number(file, text, value):
    path = file(f"prepare: {json.dumps(PREPARE)}\nread: {{optimiser: {{learning_rate: {text}}}}}")
    assert load(path).read.optimiser.learning_rate == value


@pytest.mark.parametrize("text", ["1e-4x", "e4", "1e", "'1e-4'"])
def test_what_only_looks_like_a_number_is_none(file, text):
    path = file(f"prepare: {json.dumps(PREPARE)}\nread: {{optimiser: {{learning_rate: {text}}}}}")
    with pytest.raises(ValueError, match=r"`read\.optimiser\.learning_rate` is '.*'; input should be a valid number"):
        load(path)


def test_other_readers_of_yaml_are_left_as_they_are():
    assert yaml.safe_load("1e-4") == "1e-4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\ndistil: {steps: 2}\nread: {}\ndistil: {}", r"`distil` stands in line 2 and again in line 4"),
        ("distil:\n  steps: 2\n  candidates: 4\n  steps: 3", r"`steps` stands in line 2 and again in line 4"),
        ("overrides: {2: {}, '2': {}}", r"`2` stands in line 1 and again in line 1"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(file, text, message):
    with pytest.raises(ValueError, match=rf"run\.yaml .*: key {message}, expected each key once: join the two"):
        load(file(text))


def test_a_key_given_twice_in_a_change_is_refused(file):
    with pytest.raises(ValueError, match=r"--set 'distil=\{steps: 1, steps: 2\}': .* key `steps` stands"):
        load(file(), ["distil={steps: 1, steps: 2}"])


def test_a_mapping_may_override_what_it_merges(file):
    sections = "read: {optimiser: &o {clip: 2.0}}\ndistil: {optimiser: {<<: *o, clip: 3.0}}"
    assert load(file(f"prepare: {json.dumps(PREPARE)}\n{sections}")).distil.optimiser.clip == 3.0


def test_sections_cannot_be_changed():
    one = config()
    with pytest.raises(ValidationError, match="frozen"):
        one.distil.steps = 3


# ---- refusals


@pytest.mark.parametrize(
    ("sections", "hint"),
    [
        ({"distill": {}}, r"`distill`; did you mean 'distil'\?"),
        ({"read": {"phase": []}}, r"`read\.phase`; did you mean 'phases'\?"),
        ({"read": {"phases": [{}, {"stpes": 3}]}}, r"`read\.phases\.1\.stpes`; did you mean 'steps'\?"),
        ({"read": {"optimiser": {"lr": 1.0}}}, r"`read\.optimiser\.lr`; known here: learning_rate, weight_decay, warmup"),
        ({"distil": {"student": {"querry_prefix": ""}}}, r"`distil\.student\.querry_prefix`; did you mean 'query_prefix'\?"),
        ({"distil": {"objectives": [{"temperature": 1}]}}, r"student_temperature|teacher_temperature"),
        ({"retrieve": {"bm25": {"k_1": 1.0}}}, r"`retrieve\.bm25\.k_1`; did you mean 'k1'\?"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_name(sections, hint):
    with pytest.raises(ValueError, match=f"unknown key .*{hint}|unknown key {hint}"):
        config(**sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"index": {"kind": "flaat"}},
            r"`index\.kind` is 'flaat'; input should be 'flat', 'hnsw', 'ivf' or 'seismic'; did you mean 'flat'\?",
        ),
        ({"distil": {"objectives": [{"name": "klx"}]}}, r"`distil\.objectives\.0\.name` is 'klx'; .* did you mean 'kl'\?"),
        ({"distil": {"steps": "100"}}, r"`distil\.steps` is '100'; input should be a valid integer"),
        ({"distil": {"steps": 1.5}}, r"`distil\.steps` is 1\.5; input should be a valid integer"),
        ({"distil": {"steps": True}}, r"`distil\.steps` is True; input should be a valid integer"),
        ({"distil": {"steps": 0}}, r"`distil\.steps` is 0; input should be greater than 0"),
        ({"distil": {"candidates": 1}}, r"`distil\.candidates` is 1; input should be greater than or equal to 2"),
        ({"read": {"phases": []}}, r"`read\.phases` is \[\]; list should have at least 1 item"),
        ({"read": {"dropout": 1.0}}, r"`read\.dropout` is 1\.0; input should be less than 1"),
        ({"distil": 5}, r"`distil` is 5; input should be a valid dictionary"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_found_and_what_was_expected(sections, message):
    with pytest.raises(ValueError, match=message):
        config(**sections)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("read", "passage", "{title} {text}", r"\['question', 'text'\] .* \['title'\]; found \['text', 'title'\]"),
        ("read", "passage", "{question} {context}", r"\['question', 'text'\] .*; found \['context', 'question'\]"),
        ("student", "passage_format", "{title}", r"\['text'\] .* \['title'\]; found \['title'\]"),
        ("student", "passage_format", "{question} {text}", r"\['text'\] .* \['title'\]; found"),
        ("read", "passage", "{question {text}", r"expected '}' before end of string|unexpected '{' in field name"),
    ],
)
def test_a_format_is_refused_unless_its_fields_are_known_and_all_there(section, key, value, expected):
    values = {key: value}
    with pytest.raises(ValueError, match=expected):
        config(**({"read": {"prompts": values}} if section == "read" else {"distil": {"student": values}}))


def test_a_cosine_needs_a_temperature():
    with pytest.raises(ValueError, match=r"set scale to a temperature"):
        config(distil={"student": {"score": "cosine"}})
    assert config(distil={"student": {"score": "cosine", "scale": 0.05}}).distil.student.scale == 0.05


def test_all_wrong_keys_are_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)seed.*distil\.steps.*`indeks`; did you mean 'index'"):
        config(seed=-1, distil={"steps": 0}, indeks={})


def test_a_missing_section_is_named():
    with pytest.raises(ValueError, match="`prepare` is missing"):
        parse({"seed": 1})


def test_a_split_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'train'\?"):
        parse({"prepare": {"corpus": "c", "queries": {"trian": "t"}}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "run.yaml is not YAML"),
        ("- a\n- b", "run.yaml holds list, expected a mapping"),
        ("", "run.yaml holds NoneType, expected a mapping"),
        ("seed: 1", "run.yaml: `prepare` is missing"),
    ],
)
def test_a_file_that_holds_no_config_is_named(file, text, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        load(file(text))


def test_a_file_that_is_not_there_is_named_with_where_to_start(tmp_path):
    with pytest.raises(ValueError, match=r"no config at .*missing\.yaml: .* `recipes/` holds"):
        load(tmp_path / "missing.yaml")


# ---- changes from the command line


def test_a_change_is_laid_over_the_file_and_reads_its_value_as_yaml(file):
    path = file(distil={"steps": 5, "batch": 2})
    changes = [
        "distil.steps=100",
        "read.optimiser.learning_rate=1e-3",
        "seed=3",
        "read.sha256=null",
        "retrieve.first=[bm25, student]",
    ]
    one = load(path, [*changes, "index.kind=hnsw"])
    assert (one.distil.steps, one.distil.batch, one.seed, one.read.sha256) == (100, 2, 3, None)
    assert (one.read.optimiser.learning_rate, one.retrieve.first, one.index.kind) == (1e-3, ["bm25", "student"], "hnsw")


def test_a_mapping_adds_to_the_limits_of_the_file_and_null_lifts_one(file):
    path = file("prepare: {corpus: c.jsonl, queries: {train: t.jsonl, dev: d.jsonl}, limit: {train: 3000}}")
    assert load(path, ["prepare.limit={dev: 300}"]).prepare.limit == {"train": 3000, "dev": 300}
    assert load(path, ["prepare.limit.train=null"]).prepare.limit == {"train": None}


def test_the_later_of_two_changes_counts(file):
    assert load(file(), ["seed=1", "seed=2"]).seed == 2


def test_a_value_may_hold_an_equals_sign(file):
    assert load(file(), ["distil.student.query_prefix=a=b"]).distil.student.query_prefix == "a=b"


def test_a_change_reaches_the_overrides_of_a_round(file):
    one = load(file(overrides={2: {"distil": {"steps": 5, "batch": 4}}}), ["overrides.2.distil.steps=9"])
    assert one.overrides == {2: {"distil": {"steps": 9, "batch": 4}}}


@pytest.mark.parametrize("change", ["distil.steps", "=5", ""])
def test_a_change_without_key_or_value_is_refused_with_an_example(file, change):
    with pytest.raises(ValueError, match=r"expected section\.key=value, for example distil\.steps=100"):
        load(file(), [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("distil.stpes=5", r"run\.yaml: unknown key `distil\.stpes`; did you mean 'steps'"),
        ("distil.steps=many", r"run\.yaml: `distil\.steps` is 'many'"),
        ("seed.deep=1", r"run\.yaml: `seed` is {'deep': 1}"),
        ("distil.steps=[1", r"--set 'distil\.steps=\[1': .* not YAML"),
    ],
)
def test_a_wrong_change_is_refused_like_a_wrong_file(file, change, message):
    with pytest.raises(ValueError, match=message):
        load(file(), [change])


# ---- rounds


def test_overrides_hold_from_their_round_on_and_add_up():
    one = config(
        distil={"steps": 5, "batch": 2}, overrides={3: {"distil": {"steps": 30}}, 2: {"distil": {"steps": 20, "batch": 4}}}
    )
    found = [(one.of_round(number).distil.steps, one.of_round(number).distil.batch) for number in range(5)]
    assert found == [(5, 2), (5, 2), (20, 4), (30, 4), (30, 4)]
    assert (one.distil.steps, one.of_round(3).overrides) == (5, {})


def test_a_wrong_override_is_refused_with_its_round_and_the_nearest_name():
    with pytest.raises(ValueError, match=r"overrides of round 2: unknown key `distil\.stpes`; did you mean 'steps'"):
        config(overrides={2: {"distil": {"stpes": 5}}})


def test_overrides_are_checked_together_as_their_rounds_will_use_them():
    scale, cosine = {"distil": {"student": {"scale": 0.1}}}, {"distil": {"student": {"score": "cosine"}}}
    assert config(overrides={2: scale, 3: cosine}).of_round(3).distil.student.score == "cosine"
    with pytest.raises(ValueError, match=r"overrides of round 2: .*temperature"):
        config(overrides={2: cosine, 3: scale})


def test_laying_changes_over_values_changes_neither():
    values, changes = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": {"e": 2}}, "d": {"f": 3}}
    before = json.dumps([values, changes])
    assert merged(values, changes) == {"a": {"b": {"e": 2}, "c": [1]}, "d": {"f": 3}}
    assert json.dumps([values, changes]) == before


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"kind": "dense", "dimension": 64}, "dimension is a setting of late_interaction students, and kind is 'dense'"),
        ({"kind": "sparse", "score": "cosine"}, "score is a setting of dense students"),
        ({"kind": "late_interaction", "inference_free": True}, "inference_free is a setting of sparse students"),
        ({"kind": "sparse", "inference_free": True, "towers": "separate"}, "no tower to be separate"),
    ],
)
def test_a_setting_of_another_kind_of_student_is_refused(student, message):
    with pytest.raises(ValueError, match=message):
        config(distil={"student": student})
