"""What people are shown: URLs without their secrets, text without control characters.

Messages, logs, galleries, tables and Dagster's metadata take what strangers wrote from here. What does not belong here: the whole
URL, which only the store and the database keep, where it is needed to fetch again.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

MASK = "***"

# Names of query parameters whose values let somebody in: signatures of S3, Google, Azure and CloudFront, tokens, keys, passwords.
_SECRET = re.compile(
    r"sig$|signature|token|secret|passw|passphrase|^pwd$|auth|credential|session|policy|jwt|hmac|^code$|(^|[-_.])api[-_.]?key|"
    r"access[-_.]?key|private[-_.]?key|^key$|key[-_.]?pair",
    re.IGNORECASE,
)
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]*[^\s\"'<>.,;:!?)\]]")
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
# Control characters, the C1 ones too, line and paragraph separators, what turns the direction of text, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown_url(url: str) -> str:
    """A URL for people: without user name and password, with *** for the values of secret query parameters, one printable line.

    A plain path comes back as it is, made printable. Never raises.
    """
    whole, hash_mark, fragment = _USER.sub(r"\1", url).partition("#")
    address, question_mark, query = whole.partition("?")
    if "://" in address and query:
        query = "&".join(map(_masked, query.split("&")))
    if "=" in fragment:  # tokens of OAuth's implicit flow
        fragment = "&".join(map(_masked, fragment.split("&")))
    return printable(address + question_mark + query + hash_mark + fragment)


def _masked(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}={MASK}" if equals and value and _SECRET.search(unquote_plus(name)) else pair


def shown_text(text: str) -> str:
    """A message for people: every URL in it as `shown_url` has it, one printable line. Never raises."""
    return printable(_URL.sub(lambda found: shown_url(found[0]), text))


def printable(text: str) -> str:
    r"""Text that changes no terminal and breaks no line: control characters and lone surrogates are spelt out (\x1b)."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
