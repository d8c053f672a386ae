"""Curves drawn as SVG."""

import math
import re

import pytest

from msr.pipelines.chart import Curve, draw_curves


def test_curves_are_drawn_to_scale() -> None:
    chart = draw_curves("P<b>", "dB", [0, 1, 2], [Curve("A&", [30, 40, math.nan]), Curve("B", [35, math.inf, 31])])
    assert "P&lt;b&gt;, dB" in chart
    assert "A&amp;" in chart
    assert re.findall(r'class="tick"[^>]*end">([^<]*)<', chart) == ["30", "32", "34", "36", "38", "40"]
    points = [[tuple(map(float, pair.split(","))) for pair in run.split()]
              for run in re.findall(r'points="([^"]*)"', chart)]  # fmt: skip
    (x0, low), (x1, high) = points[0]
    assert [len(run) for run in points] == [2, 3]
    assert x1 - x0 == pytest.approx(points[1][2][0] - x1)
    assert points[1][0] == (x0, pytest.approx((low + high) / 2))
    assert points[1][1] == (x1, high)  # infinite: on the upper edge
    with pytest.raises(ValueError, match="got 2 times, 1 values"):
        draw_curves("P", "", [0, 1], [Curve("A", [1])])


@pytest.mark.parametrize("values", [[5.0, 5.0], [0.0, 0.0], [math.inf, math.inf], [1e-9, 2e-9], [-3.0, 1e6]])
def test_curves_of_any_values(values: list[float]) -> None:
    chart = draw_curves("SSIM", "", [0, 0.04], [Curve("A", values)])
    heights = [float(pair.split(",")[1]) for pair in re.findall(r'points="([^"]*)"', chart)[0].split()]
    assert all(0 <= height <= 240 for height in heights)
    assert 2 <= len(re.findall('class="tick"[^>]*end"', chart)) <= 10
