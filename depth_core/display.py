"""What people are shown: URLs without their secrets, text without control characters.

Messages, logs, galleries, tables and Dagster's metadata take what strangers wrote from here. What does not belong here: the whole
URL, which only the store and the database keep, where it is needed to fetch again.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

MASK = "***"

# Names of parameters whose values let somebody in: signatures of S3, Google, Azure, CloudFront, Akamai, Discord and Facebook,
# tokens, keys, passwords, sessions.
_SECRET = re.compile(
    r"sig$|^sign$|signature|token|secret|passw|passphrase|^pass$|^pwd?$|auth(?!or(?!i))|credential|session|^sess|^sid$|policy|jwt|"
    r"hmac|ticket|^otp$|bearer|cookie|^code$|(^|[-_.])api[-_.]?key|access[-_.]?key|private[-_.]?key|^key$|key[-_.]?pair|"
    r"^hdn(ea|ts|tl)$|^__gda__$|^oh$|^hm$",
    re.IGNORECASE,
)
# Names of a manifest's columns with the same; narrower, since people call their ids `key` and `code`.
_SECRET_COLUMN = re.compile(r"token|secret|passw|passphrase|credential|signature|(api|access|private)[-_. ]?key", re.IGNORECASE)
# Values that look like a key whatever they are called: long, of letters of both cases and digits, or a JSON web token.
_OPAQUE = re.compile(r"eyJ[\w-]{8,}\.[\w.=-]*|(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])[A-Za-z0-9+/_=-]{32,}")
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>]*[^\s\"'<>.,;:!?)\]]")
# What may stand before the host: schemes (fsspec chains them by ::), or // alone. One letter is a drive of Windows.
_USER = re.compile(r"^(\s*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}::)*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}:[/\\]+|//))[^/\\?#]*@")
_IS_URL = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}::)*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}:)?//")
_USER_INSIDE = re.compile(r"//[^/?#&]*@")
_NAMES_INSIDE = re.compile(r"[?&;#]([^?&;#=]*)=")
_PAIR = re.compile(r"([^&;=]*)=([^&;]*)")
_PAIR_IN_TEXT = re.compile(r"(?<=[?&;])([^\s&;=?\"'<>]+)=(?!\*\*\*)([^\s&;#\"'<>]*[^\s&;#\"'<>.,:!?)\]])")
_BEARER = re.compile(r"\b(bearer|basic)(\s+)([\w.~+/=-]{16,})", re.IGNORECASE)
# Control characters, the C1 ones too, line and paragraph separators, what turns the direction of text, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown_url(url: str) -> str:
    """A URL for people: without user name and password, with *** for the values of secret parameters, one printable line.

    Parameters are those of the query, of the path (`;name=value`) and of the fragment, by & or ;, names percent-encoded or not;
    a URL inside a parameter that has secrets itself is *** as a whole. A plain path comes back as it is, made printable. Never
    raises.
    """
    whole, hash_mark, fragment = _USER.sub(r"\1", url).partition("#")
    address, question_mark, query = whole.partition("?")
    if _IS_URL.match(address):
        path, semicolon, rest = address.partition(";")
        address = path + semicolon + "/".join(_masked_pairs(part) for part in rest.split("/"))
        query = _masked_pairs(query)
    # Tokens of OAuth's implicit flow
    return printable(address + question_mark + query + hash_mark + _masked_pairs(fragment))


def _masked_pairs(text: str) -> str:
    return _PAIR.sub(_masked, text)


def _masked(pair: re.Match[str]) -> str:
    name, value = pair[1], pair[2]
    return f"{name}={MASK}" if value and (_SECRET.search(_decoded(name)) or _lets_in(_decoded(value))) else pair[0]


def _decoded(text: str) -> str:
    """Without percent-encoding, encoded twice or not."""
    return unquote_plus(unquote_plus(text)) if "%" in text else text


def _lets_in(value: str) -> bool:
    """Whether a value is a key itself, or a URL that has one."""
    if _OPAQUE.fullmatch(value):
        return True
    return "//" in value and bool(_USER_INSIDE.search(value) or any(map(_SECRET.search, _NAMES_INSIDE.findall(value))))


def shown_text(text: str) -> str:
    """A message for people: every URL in it as `shown_url` has it, other secret parameters as ***, one printable line.

    Never raises.
    """
    text = _URL.sub(lambda found: shown_url(found[0]), text)
    text = _PAIR_IN_TEXT.sub(lambda found: f"{found[1]}={MASK}" if _SECRET.search(_decoded(found[1])) else found[0], text)
    return printable(_BEARER.sub(rf"\1\2{MASK}", text))


def shown_field(name: str, value: object) -> str:
    """A field of a stranger's row, for people: lines stay lines, URLs lose their secrets, and *** stands for a field of keys."""
    if _SECRET_COLUMN.search(name):
        return MASK
    return "\n".join(map(shown_text, str(value).splitlines()))


def printable(text: str) -> str:
    r"""Text that changes no terminal and breaks no line: control characters and lone surrogates are spelt out (\x1b)."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
