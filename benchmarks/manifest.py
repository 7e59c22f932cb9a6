"""What indexing a manifest of many rows costs: seconds of CPU and the highest resident memory of its process.

python -m benchmarks.manifest [ROWS]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 1_000_000


def make(path: Path, rows: int) -> None:
    """An ordinary catalogue: id, URL, a quoted title, two more columns."""
    with path.open("w") as file:
        file.write("id,image_url,title,photographer,year\n")
        for n in range(rows):
            url = f"https://images.example.org/collection/{n % 1000:03d}/{n:08d}.jpg"
            file.write(f'{n:07d},{url},"Object {n}, seen from the left",Studio {n % 97},{1800 + n % 200}\n')


def peak() -> float:
    """Highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def index(path: Path, store_folder: Path) -> None:
    """Reads, assigns, writes; run in a process of its own. Says what each step took and the peak after it."""
    from depth_core.ingest import manifest
    from depth_core.settings import Settings
    from depth_core.storage import Store

    settings, store, slug = Settings(), Store(store_folder), manifest.slug(str(path))
    print(f"before      {peak():8.0f} MB")
    began = since = time.process_time()
    known = manifest.read_index(store, slug)
    rows = manifest.read(str(path), settings)
    print(f"read        {peak():8.0f} MB {time.process_time() - since:7.1f} s of CPU")
    since = time.process_time()
    assignment = manifest.assign_chunks(
        rows, known, slug=slug, rows_per_chunk=manifest.rows_per_chunk(len(rows), 1, settings, known)
    )
    print(f"assign      {peak():8.0f} MB {time.process_time() - since:7.1f} s of CPU")
    since = time.process_time()
    manifest.write_chunks(store, slug, assignment, rows, run_id="benchmark")
    print(f"write       {peak():8.0f} MB {time.process_time() - since:7.1f} s of CPU")
    print(f"{len(rows):,} rows {peak():8.0f} MB {time.process_time() - began:7.1f} s of CPU")


def main() -> None:
    if len(sys.argv) == 4:
        index(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalogue.csv"
        make(path, int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
        for _ in range(2):  # the second time everything is known
            subprocess.run([sys.executable, "-m", "benchmarks.manifest", "index", str(path), f"{folder}/store"], check=True)


if __name__ == "__main__":
    main()
