"""Lines of the API's log: for people, and nobody's secrets."""

import json
import subprocess
import sys

PROGRAM = r"""
import logging, structlog
from depth_api import logs
logs.configure_logs()
try:
    raise ValueError("INSERT {'image_url': 'https://ann:s3cr3t@a.example/?sig=s3cr3t'}\nsecond line \x9b\x7f")
except ValueError:
    logging.getLogger("a library").exception("of %s", "https://a.example/?token=s3cr3t")
structlog.stdlib.get_logger("another").info("request", status=200, seconds=0.5, whose={"url": "https://u:s3cr3t@a.example/"})
"""


def test_lines_of_the_log_have_no_secrets_and_no_control_characters_traces_included() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert "s3cr3t" not in done.stderr
    assert done.stderr.isascii()
    assert "\x7f" not in done.stderr
    library, own = map(json.loads, done.stderr.splitlines())
    assert (library["event"], library["level"]) == ("of https://a.example/?token=***", "error")
    assert "https://a.example/?sig=***" in library["exception"]
    assert "\nsecond line \\x9b\\x7f" in library["exception"]
    assert (own["status"], own["seconds"], own["whose"]) == (200, 0.5, "{'url': 'https://a.example/'}")
