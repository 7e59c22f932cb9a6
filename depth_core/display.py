"""What people are shown: URLs without their secrets, text without control characters.

Messages, logs, galleries, tables and Dagster's metadata take what strangers wrote from here. What does not belong here: the whole
URL, which only the store and the database keep, where it is needed to fetch again.
"""

from __future__ import annotations

import re
from itertools import pairwise
from urllib.parse import unquote_plus

MASK = "***"

# Names of parameters whose values are secrets: signatures of S3, Google, Azure, CloudFront, Akamai, Discord and Facebook,
# tokens, keys, passwords, sessions.
_SECRET = re.compile(
    r"sig$|(^|[-_.])sig[-_.\d]|^sign$|signature|token|secret|passw|passphrase|(^|[-_.])pass$|^pwd?$|auth(?!or)|credential|session|"
    r"^sess|^sid$|policy|jwt|hmac|ticket|^otp$|bearer|cookie|^code$|^to?kn?$|^[as]k$|"
    r"(?<!mon)(?<!tur)(?<!don)(?<!hoc)(?<!joc)(?<!whis)key$|(^|[-_.])api[-_.]?key|(access|private)[-_.]?key|key[-_.]?pair|"
    r"^hdn(ea|ts|tl)$|^__gda__$|^oh$|^hm$|authoriz",
    re.IGNORECASE,
)
# Ambiguous names: their values are secrets where they look random.
_AMBIGUOUS = re.compile(r"^(?!id$)..?$|hash|^md5|^sha\d|^mac$|verif|invit|^signed$|share|^access$|^login$|nonce", re.IGNORECASE)
# Parts of a path behind which a part that looks random is a secret.
_ANNOUNCES_SECRET = re.compile(r"^[tks]$|^signed?$|^shared?$|^private$|^invites?$", re.IGNORECASE)
# Names of a manifest's columns with the same; narrower, since people call their ids `key` and `code`.
_SECRET_COLUMN = re.compile(r"token|secret|passw|passphrase|credential|signature|(api|access|private)[-_. ]?key", re.IGNORECASE)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w.=-]*")
# Values that look like a key under any name: long, of letters of both cases and digits, or a JSON web token.
_OPAQUE = re.compile(_JWT.pattern + r"|(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])[A-Za-z0-9+/_=-]{32,}")
_RANDOM = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+_=~.-]{16,}")
_HOOK = re.compile(r"^(web)?hooks?($|\.)", re.IGNORECASE)  # a part, or the host: the rest of the path is a secret
_SECRET_PART = re.compile(_JWT.pattern + r"|bot\d+:[\w-]{20,}|^s--[\w-]{8,}--$")  # Telegram's and Cloudinary's
_FILE = re.compile(r"\.[A-Za-z0-9]{2,5}$")
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>]*[^\s\"'<>.,;:!?)\]]")
# What may stand before the host: schemes (fsspec chains them by ::), or // alone. One letter is a drive of Windows.
_USER = re.compile(
    r"^(\s*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}::)*(?:(?:https?|s3|ftp):[/\\]*|[A-Za-z][A-Za-z0-9+.-]{1,30}:[/\\]+|//))[^/?#]*@",
    re.IGNORECASE,
)
_USER_ALONE = re.compile(r"^\s*[^\s/\\:@?#]+:[^\s/@?#]+@(?=[\w.-]+(?:[:/?#]|$))")  # a URL without its scheme
_IS_URL = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}::)*(?:[A-Za-z][A-Za-z0-9+.-]{1,30}:)?//")
_USER_INSIDE = re.compile(r"//[^/?#&]*@")
_NAMES_INSIDE = re.compile(r"(?:^|[?&;#])([^?&;#=/]*)=")
_PAIR = re.compile(r"(?<![^&;])([^&;=]*)=([^&;]*)")
_PAIR_IN_PATH = re.compile(r"[^~,;&]+")
_NAMED = re.compile(r"([^=:]+)[=:]")
_PAIR_IN_TEXT = re.compile(r"(?<=[?&;])([^\s&;=?\"'<>]+)=(?!\*\*\*)([^\s&;#\"'<>]*[^\s&;#\"'<>.,:!?)\]])")
_USER_IN_TEXT = re.compile(r"(?<![\w:/])//[^\s/@]*@")
_USER_AND_HOST = re.compile(r"(?<![\w.%+/:@-])(?!mailto:)[\w.%+-]+:[^\s/@\"'<>]+@(?=[A-Za-z0-9])")
_BEARER = re.compile(r"\b(bearer|basic)(\s+)([\w.~+/=-]{16,})", re.IGNORECASE)
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\s*[:=]\s*)(?!\s|Bearer \*\*\*|Basic \*\*\*)([^\r\n\"']+)", re.IGNORECASE
)
# password=..., 'secret': '...', X-Api-Key: ... in text: a value after = or in quotes, or after a colon a value that looks random.
_WORD = (
    r"[\w.-]{0,40}(?:passw(?:or)?d|passphrase|secret|token|(?:api|access|private)[-_.]?key(?:[-_.]?id)?|signature)[\w.-]{0,40}"
)
_SECRET_IN_TEXT = re.compile(
    rf"(?<![\w.?&;-])({_WORD})([\"']?\s*=\s*|[\"']?\s*:\s*(?=[\"'])|\s*:\s*(?=[\w+/=~.-]*\d))(?:\"[^\"]*\"|'[^']*'|[^\s\"'&,;)\]}}]+)",
    re.IGNORECASE,
)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
_NOT_PRINTABLE_ASCII = re.compile(r"[^!-~]")
_DATE = re.compile(r"(19|20)\d\d-?\d\d-?\d\d")
# Control characters, the C1 ones too, line and paragraph separators, what turns the direction of text, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown_url(url: str) -> str:
    """A URL for people: without user name and password, with *** for the values of secret parameters, one printable line.

    Parameters are those of the query, of the path (`;name=value`, `/name=value~...`) and of the fragment, by & or ;, names
    percent-encoded or not; a URL inside a parameter that has secrets itself is *** as a whole. In a path *** also stands for JSON
    web tokens and for long parts that look random behind names such as token, key and sig; a random part behind other
    names is kept. A plain path keeps its parts. Never raises.
    """
    whole, hash_mark, fragment = _USER_ALONE.sub("", _USER.sub(r"\1", url)).partition("#")
    address, question_mark, query = whole.partition("?")
    if _IS_URL.match(address):
        path, semicolon, rest = address.partition(";")
        address = _masked_path(path) + semicolon + "/".join(_masked_pairs(part) for part in rest.split("/"))
    return printable(address + question_mark + _masked_pairs(query) + hash_mark + _masked_pairs(fragment))


def _masked_path(path: str) -> str:
    parts = path.split("/")
    hook = False
    for at in range(3, len(parts)):  # behind the host
        part, before = parts[at], parts[at - 1] if at > 3 else ""
        hook = hook or bool(_HOOK.search(parts[at - 1]))
        announced = hook or _names_a_secret(before) or bool(_ANNOUNCES_SECRET.search(before))
        if (announced and _looks_random(part) and not _FILE.search(part)) or _has_pairs_inside(part):
            parts[at] = MASK
        else:
            parts[at] = _SECRET_PART.sub(MASK, _PAIR_IN_PATH.sub(_masked_in_path, part))
    return "/".join(parts)


def _masked_in_path(pair: re.Match[str]) -> str:
    name = _NAMED.match(pair[0])
    return f"{name[0]}{MASK}" if name and _names_a_secret(name[1]) and name.end() < len(pair[0]) else pair[0]


def _masked_pairs(text: str) -> str:
    return MASK if "=" not in text and _has_pairs_inside(text) else _PAIR.sub(_masked, text)


def _has_pairs_inside(text: str) -> bool:
    """Whether percent-encoding hides a secret parameter."""
    return "%" in text and any(map(_names_a_secret, _NAMES_INSIDE.findall(_decoded(text))))


def _masked(pair: re.Match[str]) -> str:
    name, value = pair[1], _decoded(pair[2])
    secret = _names_a_secret(name) or _is_secret(value) or (_AMBIGUOUS.search(_decoded(name)) and _looks_random(value))
    return f"{name}={MASK}" if value and secret else pair[0]


def _names_a_secret(name: str) -> bool:
    return bool(_SECRET.search(_NOT_PRINTABLE_ASCII.sub("", _decoded(name))))


def _looks_random(text: str) -> bool:
    """Whether a text is long, of letters and digits that alternate often: a hash, a UUID, base64; not a date or a name."""
    if not _RANDOM.fullmatch(text) or _DATE.match(text):
        return False
    kinds = ["d" if each.isdigit() else "u" if each.isupper() else "l" for each in text if each.isalnum()]
    return sum(a != b for a, b in pairwise(kinds)) >= 0.25 * len(kinds)


def _decoded(text: str) -> str:
    """Without percent-encoding, encoded twice or not."""
    return unquote_plus(unquote_plus(text)) if "%" in text else text


def _is_secret(value: str) -> bool:
    """Whether a value is a secret, or a URL or a query that contains one."""
    if _OPAQUE.fullmatch(value):
        return True
    return bool("//" in value and _USER_INSIDE.search(value)) or any(map(_SECRET.search, _NAMES_INSIDE.findall(value)))


def shown_text(text: str) -> str:
    """A message for people: every URL in it as `shown_url` has it, *** for other secret parameters, headers and passwords.

    One printable line. Never raises.
    """
    text = _USER_IN_TEXT.sub("//", _URL.sub(lambda found: shown_url(found[0]), text))
    text = _USER_AND_HOST.sub(f"{MASK}@", text)
    text = _PAIR_IN_TEXT.sub(lambda found: f"{found[1]}={MASK}" if _names_a_secret(found[1]) else found[0], text)
    text = _HEADER.sub(rf"\1\2{MASK}", _BEARER.sub(rf"\1\2{MASK}", text))
    return printable(_AWS_KEY.sub(MASK, _SECRET_IN_TEXT.sub(rf"\1\2{MASK}", text)))


def shown_field(name: str, value: object) -> str:
    """A field of a stranger's row, for people: lines stay lines, URLs lose their secrets, and *** stands for a field of keys."""
    if _SECRET_COLUMN.search(name):
        return MASK
    return "\n".join(map(shown_text, str(value).splitlines()))


def printable(text: str) -> str:
    r"""Text that changes no terminal and breaks no line: control characters and lone surrogates are spelt out (\x1b)."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
