"""The report's style sheet: text reads on every ground of both colour schemes."""

import re
from pathlib import Path

import pytest

from retort.evaluation import report


def luminance(channels):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in channels)]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, two):
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def schemes():
    css = (Path(report.__file__).parent / "report.css").read_text(encoding="utf-8")
    return [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_every_text_reads_on_every_ground_of_its_colour_scheme(scheme):
    for ground in ("page", "raised"):
        for ink in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(rgb(scheme[ink]), rgb(scheme[ground])) >= 4.5, (ink, ground)  # WCAG 2.2, 1.4.3
    assert contrast(rgb(scheme["mark-ink"]), rgb(scheme["mark"])) >= 4.5
    assert contrast(rgb(scheme["ink"]), rgb(scheme["tint"])) >= 4.5
    assert contrast(rgb(scheme["muted"]), rgb(scheme["tint"])) >= 4.5


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_a_token_reads_under_the_strongest_shade(scheme):
    most = float(scheme["heat-most"])
    heat = [int(channel) for channel in scheme["heat"].split()]
    ground = [most * h + (1 - most) * g for h, g in zip(heat, rgb(scheme["raised"]), strict=True)]
    assert contrast(rgb(scheme["ink"]), ground) >= 4.5
