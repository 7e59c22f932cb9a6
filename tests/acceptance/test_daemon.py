"""Dagster's daemon with the shipped code location: a manifest that is dropped into the folder becomes depth maps by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from support.waiting import eventually

from depth_core.output import records

ROOT = Path(__file__).parents[2]
PATIENCE = 180  # seconds


def test_a_manifest_dropped_into_the_folder_is_indexed_fetched_and_depth_mapped_with_no_further_word(place) -> None:
    profiles = place.folder / "profiles.toml"
    profiles.write_text(profiles.read_text().replace("[preview]", "[preview]\non_arrival = true", 1))
    log = place.folder / "daemon.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(
            ["dagster-daemon", "run", "-w", ROOT / "workspace.yaml"],
            cwd=place.folder,
            env=place.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        place.manifest([*place.photos(3), place.folder / "gone.jpg"])

        def has_records() -> bool:
            assert daemon.poll() is None, log.read_text()[-3000:]
            return not records.read(place.store, profile="preview").empty

        eventually(has_records, lambda: log.read_text()[-3000:], within=PATIENCE, every=0.5)
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
    frame = records.read(place.store, profile="preview")
    assert frame["status"].tolist() == ["succeeded"] * 3 + ["failed"]
    assert frame["error_kind"].tolist()[-1] == "not_found"
    assert "Traceback" not in log.read_text()
