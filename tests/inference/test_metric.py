"""Metres of a network's numbers: which models have them, and what they need for it."""

import pytest

from depth_core.catalog import BY_KEY
from depth_core.inference.metric import metres_per_number


@pytest.mark.parametrize(
    ("key", "focal_px", "metres"),
    [
        ("v3/metric_large", 3000.0, 3000 * 1036 / 4000 / 300),
        ("v3/metric_large", None, None),
        ("v3/nested_giant_large", None, 1.0),
        ("v3/mono_large", 3000.0, None),
        ("v2/small", 3000.0, None),
    ],
)
def test_metres_need_a_focal_length_with_metric_large_only(key: str, focal_px: float | None, metres: float | None) -> None:
    assert metres_per_number(BY_KEY[key], focal_px, (4000, 3000), (1036, 777)) == (metres and pytest.approx(metres))
