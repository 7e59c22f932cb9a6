"""What a file is that cannot be decoded, for messages. Never its content: a row may name any file."""

from __future__ import annotations

_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "gzip"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000, which is not read"),
    (b"\xff\x4f\xff\x51", "JPEG 2000, which is not read"),
    (b"\xff\x0a", "JPEG XL, which is not read"),
    (b"%!PS", "PostScript (EPS), which is not read"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS), which is not read"),
    (b"qoif", "QOI, which is not read"),
    (b"DDS ", "a DDS texture, which is not read"),
    (b"\0\0\0\x0cJXL ", "JPEG XL, which is not read"),
    (b"II\xbc\1", "JPEG XR, which is not read"),
    (b"v/1\1", "OpenEXR, which is not read"),
    (b"#?RADIANCE", "Radiance HDR, which is not read"),
    (b"#?RGBE", "Radiance HDR, which is not read"),
    (b"\x01\xda", "an SGI picture, which is not read"),
    (b"SDPX", "DPX, which is not read"),
    (b"XPDS", "DPX, which is not read"),
    (b"SIMPLE  =", "FITS, which is not read"),
    (b"gimp xcf", "a GIMP file (XCF), which is not read"),
    (b"\x8aMNG", "MNG, which is not read"),
    (b"\x8bJNG", "JNG, which is not read"),
    (b"icns", "an icon (ICNS)"),
    *((b"P%c%c" % (kind, after), "PNM or PFM, which is not read") for kind in b"1234567Ff" for after in b"\n "),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"IIRO", "a camera's raw file (ORF), which is not read"),
    (b"IIRS", "a camera's raw file (ORF), which is not read"),
    (b"MMOR", "a camera's raw file (ORF), which is not read"),
    (b"IIU\0", "a camera's raw file (RW2), which is not read"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (RAF), which is not read"),
    (b"FOVb", "a camera's raw file (X3F), which is not read"),
    (b"II\x1a\0\0\0HEAPCCDR", "a camera's raw file (CRW), which is not read"),
    (b"\0MRM", "a camera's raw file (MRW), which is not read"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file that it stands for"),
)


def is_web_page(data: bytes) -> bool:
    """Whether a file, or its first 1,024 bytes, begins as HTML does."""
    return _start(data).startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _start(data: bytes) -> bytes:
    return data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def describe(data: bytes) -> str:
    """What the first bytes look like: "a PDF document", "HEIC, which is not read", "text"."""
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            return what
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand == b"crx ":
            return "a camera's raw file (CR3), which is not read"
        return "HEIC, which is not read" if brand[:3] in (b"hei", b"hev", b"mif", b"msf") else "a video (MP4 or QuickTime)"
    if is_web_page(data):
        return "an HTML page"
    start = _start(data)
    if start.startswith((b"<?xml", b"<svg", b"<!doctype svg")):
        return "SVG, which is not read" if b"<svg" in start else "XML"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if start.isascii() and not any(byte < 9 or 13 < byte < 32 for byte in start):
        return "text"
    return "bytes of an unknown format"
