"""What people see of an asset in Dagster's UI."""

from __future__ import annotations

import dagster as dg
import pytest

from pipelines.event_metadata import place


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("s3://bucket/depthline/records/a.parquet", dg.UrlMetadataValue),
        ("https://site.example/a.html", dg.UrlMetadataValue),
        ("/data/store/a.parquet", dg.PathMetadataValue),
    ],
)
def test_what_is_in_a_bucket_is_a_link_and_what_is_a_file_is_a_path(where: str, kind: type) -> None:
    shown = place(where)
    assert isinstance(shown, kind)
    assert shown.value == where
