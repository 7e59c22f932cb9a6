"""The SSRF guard: httpx transports that resolve a name once, check its addresses, and connect to one that was checked.

Every HTTP request to an address that somebody else wrote (images, manifests, webhooks) goes through here, each redirect hop
included. What does not belong here: requests and responses (http_client.py, responses.py), retries (download.py).
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache

import anyio
import anyio.to_thread
import httpcore
import httpx

from depth_core import url_schemes
from depth_core.display import printable, shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, is_installation_error
from depth_core.ingest.fetch.body import PIECE
from depth_core.ingest.fetch.connections import KeptConnections
from depth_core.ingest.fetch.lenient_http import LenientStream
from depth_core.url_schemes import WebScheme

Resolver = Callable[[str, int], Sequence[str]]
SocketOptions = Iterable[httpcore.SOCKET_OPTION] | None

ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})
LOCATION = "depthline.location"  # in an answer's extensions, see `hold_redirect`
_COOKIES = "depthline.cookies"

log = logging.getLogger(__name__)

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_NAME = re.compile(r"(\s*(?:https?:)?//(?:[^/\\?#@]*@)?)([^/\\?#@:\[\]]+)", re.IGNORECASE)  # what is before a host, and the host
_LONGEST_LABEL = 63  # of a name, between two dots
_CURE = "to allow it, set DEPTH_ALLOW_PRIVATE_HOSTS=true (for manifests only: DEPTH_MANIFEST_PRIVATE_HOSTS=true)"


class _WithoutQuery(logging.Filter):
    """Takes the query and the password off the URLs that httpx logs, and control characters off what servers say."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_loggable, record.args))
        return True


def _loggable(argument: object) -> object:
    if isinstance(argument, httpx.URL):
        return shown_url(str(argument.copy_with(query=None)))
    return printable(argument) if isinstance(argument, str) else argument


logging.getLogger("httpx").addFilter(_WithoutQuery())

# The IANA special-purpose registries, written out: `ipaddress.is_global` differs between Python's patch releases.
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; cloud metadata lives here
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: wraps an IPv4 address
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class BlockedAddressError(ImageError):
    """A host that may not be called. `message` is for whoever asked; str() is for operators.

    `inside` tells operators alone to which private address a name resolves and how to allow it; str() includes it.
    """

    def __init__(self, message: str, inside: str = "") -> None:
        super().__init__(ErrorKind.BLOCKED_ADDRESS, message)
        self.inside = inside

    def __str__(self) -> str:
        return f"{super().__str__()}{self.inside}"


def is_public(ip: str) -> bool:
    """True when an address (an IPv4 or IPv6 literal) is ordinary unicast on the public internet.

    Addresses that wrap another one (IPv4-mapped and -compatible, 6to4, Teredo) are not; for NAT64's well-known prefix
    the IPv4 address inside it counts, since IPv6-only networks reach the public IPv4 internet that way.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)))
        return address in _GLOBAL_UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
    return not any(address in network for network in _NOT_PUBLIC_V4)


def check_url(url: str | httpx.URL, *, allow_private: bool) -> None:
    """Checks a URL without resolving its host: scheme, host, port, credentials, literal addresses.

    Raises ImageError: BAD_URL when it is no http(s) URL, BLOCKED_ADDRESS when it may not be called.
    """
    parsed = parse_url(url)
    host = parsed.raw_host.decode("ascii", "replace")  # `host` would undo punycode, and fails at names that IDNA 2008 forbids
    if not isinstance(url_schemes.SCHEMES.get(parsed.scheme), WebScheme) or not _HOST.fullmatch(host):
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(parsed)} is not an http or https URL with a host")
    if any(not 0 < len(label) <= _LONGEST_LABEL for label in parsed.raw_host.removesuffix(b".").split(b".")):
        raise ImageError(ErrorKind.BAD_URL, f"{_shown(parsed)} has a host name with an empty or too long label")
    port = (443 if parsed.scheme == "https" else 80) if parsed.port is None else parsed.port
    if not 0 < port <= 65535:
        raise ImageError(ErrorKind.BAD_URL, f"port {port} does not exist")
    if allow_private:
        return
    if parsed.userinfo:
        raise BlockedAddressError("a URL with a user name or password is not allowed; use a signed URL")
    if port not in ALLOWED_PORTS:
        ports = ", ".join(map(str, sorted(ALLOWED_PORTS)))
        raise BlockedAddressError(f"port {port} is not allowed, only {ports}", f"; {_CURE}")
    literal = _literal(host)
    if literal is not None and not is_public(literal):
        raise _blocked(host, literal)


def parse_url(url: str | httpx.URL) -> httpx.URL:
    """Parses a URL of any scheme. Raises ImageError (BAD_URL), whatever the parser raises."""
    try:
        return httpx.URL(url)
    except Exception as error:
        if is_installation_error(error):
            raise
        if (older := _in_idna_2003(str(url))) != str(url):
            with suppress(Exception):
                return httpx.URL(older)
        raise ImageError(ErrorKind.BAD_URL, f"not a URL: {shown_text(str(error)[:300])}") from None


def _in_idna_2003(url: str) -> str:
    """The URL with its host in punycode by IDNA 2003, which allows emoji, as browsers do; unchanged where that fails."""
    found = _NAME.match(url)
    try:
        return url if found is None else f"{found[1]}{found[2].encode('idna').decode('ascii')}{url[found.end() :]}"
    except UnicodeError:
        return url


def host_header(url: httpx.URL) -> dict[str, str]:
    """The Host header for names in punycode: httpx decodes them first, and fails at those that IDNA 2008 forbids (emoji)."""
    return {"Host": url.netloc.decode("ascii")} if url.raw_host.startswith(b"xn--") else {}


def async_transport(allow_private: bool, *, kept: int = 32, resolve: Resolver | None = None) -> httpx.AsyncBaseTransport:
    """The transport for asynchronous clients. With `allow_private` any host and port may be called.

    At most `kept` connections stay open while nobody uses them; how many are open has no limit.

    The client must not follow redirects on its own with unbounded bodies; every hop that comes through here is checked again.
    Proxies of the environment are not used, since a proxy would resolve the name a second time. Cookies are taken off the
    addresses, so a client keeps none and sends none (`take_cookies` puts them into a jar for one file). Raises ImageError
    (BLOCKED_ADDRESS, BAD_URL) from within the request, httpx's own errors otherwise.
    """
    return _AsyncTransport(allow_private, kept, resolve or _system_resolver)


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: reading the certificates of all authorities takes as long as a small download."""
    return httpx.create_ssl_context()


class _AsyncTransport(httpx.AsyncHTTPTransport):
    def __init__(self, allow_private: bool, kept: int, resolve: Resolver) -> None:
        super().__init__(verify=_tls())
        self._allow_private = allow_private
        # httpx has no parameter for httpcore's pool.
        self._pool = KeptConnections(kept, _tls(), _AsyncBackend(allow_private, resolve))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        check_url(request.url, allow_private=self._allow_private)
        return _without_cookies(await super().handle_async_request(request))


def _without_cookies(response: httpx.Response) -> httpx.Response:
    """A client's jar would send what a host set for one API key with the next key's request; this way it stays empty."""
    response.extensions[_COOKIES] = response.headers.get_list("set-cookie")
    response.headers.pop("set-cookie", None)
    return response


def take_cookies(response: httpx.Response, jar: httpx.Cookies) -> None:
    """Puts the cookies that came with an answer into a jar of the caller's. Never share a jar between files or API keys."""
    lines = [("set-cookie", line) for line in response.extensions.get(_COOKIES, []) if line.isascii() and line.isprintable()]
    if lines:
        jar.extract_cookies(httpx.Response(200, headers=lines, request=response.request))


async def hold_redirect(response: httpx.Response) -> None:
    """A response hook for clients that follow redirects themselves, or not at all.

    Even for them httpx builds the next request, and fails if it cannot parse the host (emoji). So this moves the Location header
    into the response's `extensions`.
    """
    if places := response.headers.get_list("location"):
        response.extensions[LOCATION] = places[0]
        response.headers.pop("location")


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses. TLS and the Host header keep the name: httpcore takes them from the URL."""

    def __init__(self, allow_private: bool, resolve: Resolver) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._allow_private = allow_private
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        try:
            with anyio.fail_after(timeout):
                addresses = await anyio.to_thread.run_sync(self._resolve, host, port, abandon_on_cancel=True)
                for address in _checked(host, addresses, self._allow_private):
                    try:
                        stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
                        return LenientStream(stream, PIECE)
                    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                        failure = error
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no connection to {host} within {timeout} s") from failure
        except (OSError, UnicodeError) as error:  # UnicodeError: from Python's codec, for an impossible name
            raise httpcore.ConnectError(f"{host}: {error}") from error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def _system_resolver(host: str, port: int) -> list[str]:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in addresses))


def _checked(host: str, addresses: Sequence[str], allow_private: bool) -> Sequence[str]:
    """The same addresses, if all may be called: a single private one refuses the name. Raises BlockedAddressError."""
    for address in addresses:
        if not allow_private and not is_public(address):
            error = _blocked(host, address)
            log.info("%s", error)
            raise error
    return addresses


def _literal(host: str) -> str | None:
    """The address that a host spells, in any spelling the C library takes (127.1, 0x7f000001, 2130706433); None for a name."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        pass
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _blocked(host: str, address: str) -> BlockedAddressError:
    resolved = "" if host == address else f" (it is {address})"
    return BlockedAddressError(f"{host} is not on the public internet, so it is not allowed", f"{resolved}; {_CURE}")


def _shown(url: httpx.URL) -> str:
    text = shown_url(str(url))
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
