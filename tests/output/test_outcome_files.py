"""Outcomes of a chunk: one file, with the parameters that they were made with."""

from __future__ import annotations

import pyarrow.parquet as pq
from support.outcomes import failed, succeeded

from depth_core.output.outcome_files import read_outcomes, read_parameters, write_outcomes
from depth_core.output.outcomes import outcome_from_files, outcome_to_files
from depth_core.profiles import Profile
from depth_core.storage import Store

CHUNK = "photos-1a2b3c4d-00000"


def test_the_depth_range_is_ends_in_files_whatever_it_is_called_here(store: Store, profile: Profile) -> None:
    outcome = succeeded("aa", depth_range=(0.5, 8.5))
    assert outcome_to_files(outcome)["ends"] == (0.5, 8.5)
    assert outcome_from_files({"source_sha256": "aa", "status": "succeeded", "ends": [0.5, 8.5]}).depth_range == (0.5, 8.5)
    write_outcomes(store, profile.name, CHUNK, [outcome], parameters=profile.parameters)
    assert read_outcomes(store, "preview", CHUNK) == {"aa": outcome}


def test_outcomes_of_a_chunk_are_read_as_they_were_written(store: Store, profile: Profile) -> None:
    outcomes = [succeeded("aa"), failed("bb"), succeeded("cc", unit="m", reused=True, seconds={})]
    assert read_outcomes(store, "preview", CHUNK) == {}
    assert read_parameters(store, "preview", CHUNK) is None
    write_outcomes(store, profile.name, CHUNK, outcomes, parameters=profile.parameters)
    assert read_parameters(store, "preview", CHUNK) == profile.parameters.as_api()
    assert read_outcomes(store, "preview", CHUNK) == {o.source_sha256: o for o in outcomes}


def test_the_file_of_outcomes_keeps_its_columns(local_store: Store, profile: Profile) -> None:
    """They are a file format: what is written today is read for years."""
    key = write_outcomes(local_store, profile.name, CHUNK, [succeeded("aa")], parameters=profile.parameters)
    schema = pq.read_schema(local_store.path(key))
    assert {field.name: str(field.type).replace(" ('seconds')", "") for field in schema} == {
        "source_sha256": "string",
        "status": "string",
        "folder": "string",
        "results": "list<element: string>",
        **{f"{of}_{side}": "int32" for of in ("source", "network", "output") for side in ("width", "height")},
        "depth_min": "double",
        "depth_max": "double",
        "kind": "string",
        "unit": "string",
        "model": "string",
        "checkpoint_revision": "string",
        "licence": "string",
        "seconds": "map<string, double>",
        "attempts": "int32",
        "error_kind": "string",
        "error_message": "string",
        "finished_at": "string",
        "reused": "bool",
        "ends": "list<element: double>",
    }


def test_a_file_that_knows_other_facts_is_read_as_far_as_it_is_understood(local_store: Store, profile: Profile) -> None:
    key = write_outcomes(local_store, profile.name, CHUNK, [succeeded("aa")], parameters=profile.parameters)
    path = local_store.path(key)
    table = pq.read_table(path).drop_columns(["licence", "ends"])
    pq.write_table(table.append_column("weather", [["fine"]]), path)
    assert read_outcomes(local_store, "preview", CHUNK) == {"aa": succeeded("aa", licence="")}
