"""Charts: curves grouped into figures, long logs averaged, intervals drawn as whiskers."""

import math

import pytest

from retort.evaluation.charts import COLOURS, LEVEL_COLOUR, Curve, figures, thinned


def curve(name="round 1", group="Reader: loss", **changes):
    values = {"x": [0, 1, 2], "y": [3.0, 2.0, 1.0], "x_label": "step", "y_label": "loss"} | changes
    return Curve(name, group=group, **values)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_curves_of_one_group_share_a_figure_and_groups_keep_their_order():
    found = figures([curve(group="b"), curve(group="a"), curve("round 2", group="b")])
    assert [(title, len(figure.data)) for title, figure in found.items()] == [("b", 2), ("a", 1)]


def test_a_name_has_one_colour_in_all_figures_and_names_differ():
    found = figures([curve(), curve("round 2"), curve("round 2", group="Student: loss")])
    first, second = found["Reader: loss"].data
    assert first.line.color != second.line.color
    assert found["Student: loss"].data[0].line.color == second.line.color


def test_more_names_than_colours_differ_in_their_dashes():
    traces = figures([curve(f"round {i}") for i in range(2 * len(COLOURS))])["Reader: loss"].data
    assert len({(trace.line.color, trace.line.dash) for trace in traces}) == 2 * len(COLOURS)


def test_a_level_line_is_grey_and_bears_no_points():
    trace = figures([curve("BM25", level=True)])["Reader: loss"].data[0]
    assert (trace.line.color, trace.mode) == (LEVEL_COLOUR, "lines")


def test_whiskers_reach_from_each_point_to_the_ends_of_its_interval():
    trace = figures([curve(y=[3.0, 2.0, 1.0], low=[2.5, 1.0, None], high=[3.25, 4.0, None])])["Reader: loss"].data[0]
    assert list(trace.error_y.array) == [0.25, 2.0, 0.0]
    assert list(trace.error_y.arrayminus) == [0.5, 1.0, 0.0]


def test_the_axis_of_rounds_ticks_at_every_round_only():
    assert figures([curve(x_label="round")])["Reader: loss"].layout.xaxis.dtick == 1


def test_an_unmeasured_point_is_a_gap():
    assert list(figures([curve(y=[3.0, math.nan, 1.0])])["Reader: loss"].data[0].y) == [3.0, None, 1.0]


@pytest.mark.parametrize("count", [1, 7, 200, 201, 1500])
def test_a_thinned_log_has_at_most_the_asked_points_and_ends_in_its_last_block(count):
    found = thinned(list(range(count)), most=200)
    block = math.ceil(count / 200)
    assert len(found) <= 200
    tail = list(range(count))[(len(found) - 1) * block :]
    assert found[-1] == sum(tail) / len(tail)


@pytest.mark.parametrize("changes", [{"y": [1.0]}, {"low": [1.0, 2.0]}, {"high": [1.0, 2.0, 3.0, 4.0]}])
def test_lengths_that_differ_are_refused_by_the_curves_name(changes):
    with pytest.raises(ValueError, match=r"'round 1' of 'Reader: loss'.*give one of each per point"):
        curve(**changes)


@pytest.mark.parametrize("page", ["#ffffff", "#15181c"])
def test_every_line_stands_out_from_a_light_and_a_dark_page(page):
    for colour in (*COLOURS, LEVEL_COLOUR):
        light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.2, 1.4.11: graphics
