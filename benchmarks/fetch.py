"""Fetching photos from nginx on loopback, with all checks on, against img2dataset; and what each part of ours costs.

Each run is a process of its own. "fetching" is timed from the first request that nginx saw to the last file written, "process"
from its start to its end; CPU seconds are those of the process and its children. Rounds of all in turn, ratios per round,
medians. With --img2dataset PYTHON, of an environment that has img2dataset 1.47; without it, only ours is measured.

python -m benchmarks.fetch --img2dataset /tmp/img2dataset/bin/python
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from benchmarks.photos import make_photos
from benchmarks.report import figure
from depth_core.ingest import sources
from depth_core.ingest.fetch import http_client, ssrf_guard
from depth_core.ingest.fetch.body import PIECE, Body
from depth_core.ingest.fetch.download import Downloader, Fetched, Session
from depth_core.ingest.fetch.scheduler import Limits, run_many
from depth_core.settings import Settings
from depth_core.storage import Store

AT_ONCE = 32
DISTINCT = 40  # photos that are drawn; the others differ from these in a comment alone
OURS = [sys.executable, "-m", "benchmarks.fetch"]
IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    urls, folder, threads, reencoding = sys.argv[1:]
    download(urls, output_folder=folder, input_format="txt", output_format="files", resize_mode="no", skip_reencode=True,
             disable_all_reencoding=reencoding == "undecoded", thread_count=int(threads), processes_count=1)
"""
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 1024; }}
http {{
    log_format times "$msec $request_time $status";
    access_log {folder}/access.log times;
    types {{ image/jpeg jpg; }}
    sendfile on; tcp_nopush on; keepalive_requests 100000;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{ {listen} root {photos}; }}
}}
"""


@dataclass(frozen=True)
class Run:
    fetching: float  # seconds
    process: float  # seconds
    cpu: float  # seconds


# -- photos and their server ------------------------------------------------------------------------------------------------


def make_files(folder: Path, count: int) -> list[str]:
    """The names of `count` JPEGs, no two with the same bytes."""
    drawn = [path.read_bytes() for path in make_photos(folder / "drawn", min(DISTINCT, count), quality=95)]
    names = []
    for number in range(count):
        jpeg = drawn[number % len(drawn)]
        comment = b"%08d" % number
        names.append(f"{number:05d}.jpg")
        (folder / names[-1]).write_bytes(jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:])
    shutil.rmtree(folder / "drawn")
    return names


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(photos: Path, hosts: list[str], port: int) -> Iterator[Path]:
    """nginx on `port` of all hosts; yields its log of requests."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("nginx is not installed; install it (apt install nginx-light, brew install nginx)")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
        listen = " ".join(f"listen {host}:{port} backlog=1024;" for host in hosts)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, photos=photos, listen=listen, user=user))
        server = subprocess.Popen([program, "-p", text, "-e", f"{text}/error.log", "-c", f"{text}/nginx.conf"])
        try:
            for host in hosts:
                until_answers(host, port, server)
            yield folder / "access.log"
        finally:
            server.terminate()
            server.wait()


def until_answers(host: str, port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise SystemExit("nginx did not start; what it says is above")


# -- one run ----------------------------------------------------------------------------------------------------------------


def run(command: list[str], out: Path, photos: Path, hosts: list[str], port: int, count: int) -> Run:
    """Runs a command that writes `count` images below `out`."""
    with nginx(photos, hosts, port) as log:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        process = time.monotonic() - began
        lines = [line.split() for line in log.read_text().splitlines()]
    fetched = [line for line in lines if line[2] == "200"]
    if status or len(fetched) != count:
        raise SystemExit(f"{command[:4]}: status {status}, {len(fetched)} of {count} images served\n{said.decode()[-2000:]}")
    first = min(float(ended) - float(seconds) for ended, seconds, _ in fetched)
    last = max(path.stat().st_mtime for path in out.rglob("*") if path.is_file())
    return Run(last - first, process, used.ru_utime + used.ru_stime)


def checked(port: int, per_host: int) -> Settings:
    """Settings with all checks on, where loopback counts as public and nginx's port as an ordinary one."""
    loopback = ipaddress.IPv4Network("127.0.0.0/8")
    ssrf_guard._NOT_PUBLIC_V4 = tuple(network for network in ssrf_guard._NOT_PUBLIC_V4 if network != loopback)
    ssrf_guard.ALLOWED_PORTS |= {port}
    return Settings(download_concurrency=AT_ONCE, download_per_host=per_host)


def fetch_ours(urls: list[str], folder: Path, port: int, per_host: int) -> None:
    """What the asset source_images does, in this process."""
    store = Store(folder)
    table = sources.table(sources.ingest(urls, store, checked(port, per_host), allow_private=False))
    sources.write_table(store, "photos-00000000-00000", table)
    failed = table[table["error_kind"].notna()]
    if len(failed):
        raise SystemExit(f"{len(failed)} failed: {failed.iloc[0].to_dict()}")


def parts_of_ours(urls: list[str], folder: Path, port: int, per_host: int) -> None:
    """Prints what each part costs by itself: CPU milliseconds an image, of all threads of this process."""
    settings, store, photos = checked(port, per_host), Store(folder), {}
    downloader = Downloader(settings, allow_private=False)

    async def read(session: Session, url: str) -> bytes:
        async with http_client.request(session.client, "GET", url, settings) as response:
            return b"".join([piece async for piece in response.aiter_raw()])

    def cost(name: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        milliseconds[name] = 1000 * (time.process_time() - began) / len(urls)

    def fetched(url: str, photo: bytes) -> Fetched:
        return Fetched(url, BytesIO(photo), hashlib.sha256(url.encode()).hexdigest(), len(photo), "image/jpeg")

    def check(url: str) -> None:
        parsed = ssrf_guard.parse_url(url)
        ssrf_guard.check_url(parsed, allow_private=False)
        ssrf_guard._checked(parsed.host, ssrf_guard._system_resolver(parsed.host, port), False)

    def keep_body(photo: bytes) -> None:
        body = Body(settings.max_source_bytes)
        for start in range(0, len(photo), PIECE):
            body.write(photo[start : start + PIECE])
        body.opened().read()

    milliseconds: dict[str, float] = {}
    cost("all of it", lambda: fetch_ours(urls, folder / "all", port, per_host))
    limits = Limits(AT_ONCE, per_host)
    cost("client and schedule", lambda: photos.update(run_many(urls, downloader.session, read, limits)))
    cost("address check (a name and its addresses for each image)", lambda: [check(url) for url in urls])
    cost("sha256", lambda: [hashlib.sha256(photo).digest() for photo in photos.values()])
    cost("sha256, size limit and memory for the body", lambda: [keep_body(photo) for photo in photos.values()])
    cost("store: a file and an index entry", lambda: [sources._keep(store, {}, fetched(*each)) for each in photos.items()])
    print(json.dumps(milliseconds))


# -- all --------------------------------------------------------------------------------------------------------------------


def commands(python: str | None, urls: Path, out: Path, port: int, per_host: int) -> dict[str, list[str]]:
    """By name: ours, and img2dataset as it is asked to keep files, and without looking whether they are images."""
    ours = [*OURS, "ours", str(urls), str(out), str(port), str(per_host)]
    if python is None:
        return {"ours": ours}
    script = urls.with_name("rival.py")
    script.write_text(IMG2DATASET)
    theirs = [python, str(script), str(urls), str(out), str(AT_ONCE)]
    return {"ours": ours, "img2dataset": [*theirs, "decoded"], "img2dataset, undecoded": [*theirs, "undecoded"]}


def per_host(hosts: list[str]) -> int:
    """As many at once from one host as in all when there is no other, else the default."""
    return AT_ONCE if len(hosts) == 1 else 8


def measure(folder: Path, names: list[str], hosts: list[str], options: argparse.Namespace) -> None:
    port, urls, out = free_port(), folder / "urls.txt", folder / "out"
    urls.write_text("\n".join(f"http://{hosts[i % len(hosts)]}:{port}/{name}" for i, name in enumerate(names)))
    runs: dict[str, list[Run]] = {}
    for number in range(options.rounds + 1):
        for name, command in commands(options.img2dataset, urls, out, port, per_host(hosts)).items():
            result = run(command, out, folder / "photos", hosts, port, len(names))
            shutil.rmtree(out)
            if number:  # the first round warms the caches of files
                runs.setdefault(name, []).append(result)
    own = 0.0  # ours, images a second; the first of them
    print(f"{len(hosts)} host(s), {AT_ONCE} at once, {per_host(hosts)} from one host; ratios: ours is so many times as fast")
    for name, results in runs.items():
        rate, whole = (len(names) / statistics.median(s) for s in zip(*((r.fetching, r.process) for r in results), strict=True))
        cpu = statistics.median(r.cpu for r in results)
        print(f"  {name:24}{rate:7.1f} images/s fetching{whole:7.1f} as a process, CPU {cpu:5.1f} s")
        title = f"{name}, {len(hosts)} host{'s' * (len(hosts) > 1)}"
        if name == "ours":
            own = rate
            figure(f"fetching: {title}", rate, "images/s")
            continue
        ratios = {}
        for field in ("fetching", "process"):
            each = [getattr(theirs, field) / getattr(mine, field) for mine, theirs in zip(runs["ours"], results, strict=True)]
            ratios[field] = statistics.median(each)
            print(f"    {field:9} {ratios[field]:5.2f} ({min(each):.2f} to {max(each):.2f})")
        figure(
            f"fetching: ours against {title}",
            own,
            "images/s",
            ratio=ratios["fetching"],
            over=f"the speed of {name}",
            at_least=1.2 if name == "img2dataset" else None,
            note=f"{name} {rate:.0f}",
        )
    if len(hosts) > 1:
        with nginx(folder / "photos", hosts, port):
            said = subprocess.check_output([*OURS, "parts", str(urls), str(out), str(port), str(per_host(hosts))])
        print("ours, each part by itself, CPU milliseconds an image")
        for name, milliseconds in json.loads(said).items():
            print(f"  {name:60}{milliseconds:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--img2dataset",
        metavar="PYTHON",
        default=os.environ.get("IMG2DATASET"),
        help="a Python that has img2dataset; by default the environment's IMG2DATASET",
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.img2dataset and shutil.which(options.img2dataset) is None:
        parser.error(f"--img2dataset: {options.img2dataset} is no program; give the path of a Python that has img2dataset")
    if options.img2dataset is None:
        missing = "--img2dataset names no Python that has img2dataset (pip install img2dataset==1.47.0)"
        print(f"only ours is measured: {missing}")
        figure("fetching: ours against img2dataset", None, note=missing)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        names = make_files(folder / "photos", options.images)
        size = sum(path.stat().st_size for path in (folder / "photos").iterdir())
        print(f"{len(names)} JPEGs of {size / len(names) / 1e6:.2f} MB on average")
        for count in (1, 20):
            measure(folder, names, [f"127.0.0.{number + 1}" for number in range(count)], options)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["parts"]):
        work = fetch_ours if sys.argv[1] == "ours" else parts_of_ours
        work(Path(sys.argv[2]).read_text().split(), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
