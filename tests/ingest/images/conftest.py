"""What tests of decoders share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from depth_core.ingest.images import headers, isolated


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures out of the ordinary share a process of this thread, as others do: starting one for each takes long."""
    ordinary = isolated.decode

    def decode(data: bytes, header: headers.Header, **options: Any) -> isolated.Decoded:
        return ordinary(data, replace(header, unusual=""), **options)

    monkeypatch.setattr(isolated, "decode", decode)
