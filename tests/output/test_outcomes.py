"""Outcomes: what is known of one image."""

from __future__ import annotations

import numpy as np
from support.outcomes import failed

from depth_core.output.outcomes import IMAGE_COLUMNS, image_columns_of, outcome_to_files, utc_now


def test_times_sort_as_text() -> None:
    times = [utc_now() for _ in range(50)]
    assert times == sorted(times)
    assert {len(time) for time in times} == {24}
    assert not np.isnat(np.datetime64(times[0].rstrip("Z")))


def test_facts_are_null_where_they_are_not_known() -> None:
    facts = image_columns_of(outcome_to_files(failed("aa", source_width=640, depth_min=0.0)))
    assert {name: value for name, value in facts.items() if value is not None} == {"source_width": 640, "depth_min": 0.0}
    assert list(facts) == [fact.name for fact in IMAGE_COLUMNS]
    assert set(image_columns_of({}).values()) == {None}
