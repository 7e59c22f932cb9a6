"""The API under a path of a proxy: nginx where it is installed, and what any proxy may send."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from support.ports import free_port
from support.waiting import eventually

from depth_api.app import create_app
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings

NEW = "/v2/artworks/depth-map"
BODY = {"imageUrl": "https://example.com/photo.jpg", "model": "tiny"}
HEADERS = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https; proxy_set_header Host $host;"
CONFIGURATION = """
daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    {headers}
    location /taken/off/ {{ proxy_set_header X-Forwarded-Prefix /taken/off; {headers} proxy_pass {api}/; }}
    location /kept/ {{ proxy_set_header X-Forwarded-Prefix /kept; {headers} proxy_pass {api}; }}
  }}
}}
"""


@pytest.fixture
def nginx(url: str, tmp_path: Path) -> Iterator[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (tmp_path / "nginx.conf").write_text(CONFIGURATION.format(port=port, api=url, headers=HEADERS))
    with subprocess.Popen(
        [program, "-p", tmp_path, "-c", "nginx.conf", "-e", "stderr"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}"))
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return bool(httpx.get(url).status_code)
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize("prefix", ["/taken/off", "/kept"])
def test_every_path_that_the_api_names_leads_through_the_proxy(nginx: str, client: httpx.Client, prefix: str) -> None:
    with httpx.Client(base_url=nginx, headers=client.headers) as outside:
        made = outside.post(f"{prefix}{NEW}", json=BODY)
        assert made.headers["location"].startswith(f"{prefix}/v2/artworks/")
        assert outside.get(made.headers["location"]).json() == made.json()
        assert outside.get(f"{made.headers['location']}/").is_success, "with a slash at its end"
        outside.post(f"{prefix}{NEW}", json=BODY)
        [link] = re.findall(r"<(.*)>", outside.get(f"{prefix}/v2/artworks", params={"limit": 1}).headers["link"])
        assert outside.get(link).json() == [made.json()]
        named = re.findall(r'(?:href|src|document)="([^"]+)"', outside.get(f"{prefix}/docs").text)
        assert len(named) == 5
        assert [path for path in named if not outside.get(path).is_success] == []
        assert outside.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": prefix}]
    assert "servers" not in client.get("/openapi.json").json(), "without a proxy"


def test_a_prefix_counts_from_trusted_proxies_alone_and_has_to_be_a_path(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any], client: httpx.Client
) -> None:
    def location(url: str, prefix: str) -> str:
        made = httpx.post(url + NEW, json=BODY, headers={**client.headers, "X-Forwarded-Prefix": prefix})
        return made.headers["location"] if made.is_success else made.json()["message"]

    here = str(client.base_url).rstrip("/")
    assert location(here, "/outer/, /inner").startswith("/outer/inner/v2/artworks/")
    for wrong in ("//evil.example", "evil", "/../x", "https://evil.example", "/v2", '/"><script>'):
        assert location(here, wrong).startswith("the proxy's X-Forwarded-Prefix must"), wrong
    with serving(configure(trusted_proxies="192.0.2.1")) as url:
        assert location(url, "/depth").startswith("/v2/artworks/")


def test_a_prefix_of_the_settings_needs_no_header(configure: Callable[..., Settings]) -> None:
    settings = configure(root_path="/depth/", api_keys="")
    with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 5000)) as client:
        for path in ("/depth" + NEW, NEW):
            assert client.post(path, json=BODY).headers["location"].startswith("/depth/v2/artworks/")
        assert client.get("/depth/docs").text.count('"/depth/docs/assets/') == 3
        assert client.get("/docs/assets/swagger-ui.css").is_success
        assert client.get("/depthless/health/live").status_code == 404
    for wrong in ("depth", "//depth", "/a b", "/docs", "/health/x"):
        with pytest.raises(ConfigurationError, match="DEPTH_ROOT_PATH: must"):
            configure(root_path=wrong)
