"""What code reads from events: whole, small, and also from events of earlier versions."""

from __future__ import annotations

import json

from depth_core import layout
from pipelines.event_facts import KEY, IndexFacts


def test_the_chunks_of_an_index_run_come_back_as_they_went_in() -> None:
    chunks = [*(layout.chunk_key("a-1", n) for n in (0, 1, 2, 5, 7, 8)), layout.chunk_key("b-2", 99_999), "b-2-100000"]
    facts = IndexFacts.of(reversed(chunks))
    assert IndexFacts.read(facts.metadata()).chunks() == chunks
    assert IndexFacts.read({}).chunks() == []


def test_an_index_run_that_changed_all_chunks_says_so_in_a_line() -> None:
    entry = IndexFacts.of(layout.chunk_key("photos-1a2b3c4d", n) for n in range(50_000)).metadata()[KEY]
    assert len(json.dumps(entry.value)) < 100


def test_events_of_earlier_versions_name_each_chunk() -> None:
    assert IndexFacts(["m-00000", "m-00007"]).chunks() == ["m-00000", "m-00007"]
