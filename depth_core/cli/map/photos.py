"""Which files the arguments of `depthline map` name: photos, folders with all that is below them, patterns.

What does not belong here: what their results are called (result_names.py), and what is a photo by its bytes (ingest/images/).
"""

from __future__ import annotations

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from depth_core.errors import ConfigurationError
from depth_core.ingest.images import decoders
from depth_core.output import formats

RESULTS = tuple(f".{name}" for name in formats.result_names())
LISTED = 3  # names of files that may be photos by another name
_LIKE_RESULT, _WITHOUT_SUFFIX = "named like a depth map", "without suffix"

# Suffixes of pictures that are not supported: they are counted and reported to the user.
_IMAGE_LIKE = frozenset(
    """
    .heic .heif .hif .avci .jxl .jp2 .j2k .jpf .jpx .jxr .hdp .wdp .qoi .bpg .flif
    .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .rwl .raw .pef .ptx .srw .x3f .3fr .fff .iiq .dcr .kdc .mef .mos
    .mrw .erf .gpr .insp
    .psd .psb .xcf .kra .svg .svgz .eps .ai .ico .icns .tga .pcx .ppm .pgm .pbm .pnm .pfm .dds .exr .hdr .fits .dcm
    .jpg .jpeg .png .webp .gif .bmp .tif .tiff .avif
    """.split()  # noqa: SIM905
)


@dataclass
class Found:
    """What the arguments named."""

    photos: dict[Path, str] = field(
        default_factory=dict
    )  # each file, and the folder of its results below --out, "" for --out itself
    skipped: list[tuple[str, str]] = field(default_factory=list)  # files that are not read: what each is, "HEIC", and its name
    unreadable: list[tuple[Path, str]] = field(default_factory=list)  # folders below those named, and why


def summary(skipped: Sequence[tuple[str, str]]) -> str:
    """ "12 HEIC, 1 named like a depth map (x.depth.png)"; "" when nothing was skipped."""
    names = defaultdict[str, list[str]](list)
    for what, name in skipped:
        names[what].append(name)
    most_first = sorted(names.items(), key=lambda each: -len(each[1]))
    return ", ".join(f"{len(of):,} {what}{_first(of, what)}" for what, of in most_first)


def _first(names: Sequence[str], what: str) -> str:
    if what not in (_LIKE_RESULT, _WITHOUT_SUFFIX):
        return ""
    return f" ({', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"


def find(patterns: Sequence[str], out: str) -> Found:
    """The files that the arguments name, each once, in order; of a folder the photos in it and in all folders below.

    Below a folder, what is hidden is left out, and so is the folder `out`. Depth maps of an earlier run that lie in a folder,
    or that a pattern matches, are not taken for photos. Raises ConfigurationError for an argument that names no photo.
    """
    found = Found()
    known: set[tuple[str, str]] = set()  # real folder and name: one file by two ways is one photo

    def add(file: Path, folder: str = "") -> None:
        entry = (os.path.realpath(file.parent), file.name)
        if entry not in known:
            known.add(entry)
            found.photos[file] = folder

    for pattern in patterns:
        named, skipped_before = 0, len(found.skipped)
        if os.path.isdir(pattern):
            for file, folder in _below(Path(pattern), out, found):
                named += 1
                add(file, folder)
        elif os.path.isfile(pattern):
            named = 1
            add(Path(pattern))
        else:
            for match in sorted(glob.glob(pattern, recursive=True)):
                if not os.path.isfile(match):
                    continue
                if not match.endswith(RESULTS):
                    named += 1
                    add(Path(match))
                elif not _is_result(Path(match)):
                    found.skipped.append((_LIKE_RESULT, Path(match).name))
        if not named:
            raise ConfigurationError(f"no photo at {pattern}" + _why_none(pattern, summary(found.skipped[skipped_before:])))
    return found


def _why_none(pattern: str, skipped: str) -> str:
    if skipped:
        return f"; what is there is not read: {skipped}"
    return "" if os.path.lexists(pattern) or glob.has_magic(pattern) else ": there is no such file or folder"


def _below(top: Path, out: str, found: Found) -> Iterator[tuple[Path, str]]:
    """The photos below a folder and the folder of each, relative to it. Every folder is looked at once, links to folders last."""
    try:
        next(os.scandir(top), None)
    except OSError as error:
        raise ConfigurationError(f"{top} cannot be read: {error.strerror or error}") from None
    results = os.path.realpath(out)
    looked_at: set[str] = set()
    waiting = [top]
    while waiting:
        start = waiting.pop(0)
        if os.path.realpath(start) in looked_at:
            continue
        for place, folders, files in os.walk(start, onerror=lambda error: _cannot_read(error, found)):
            looked_at.add(os.path.realpath(place))
            for name in sorted(folders):
                folder = Path(place, name)
                if name.startswith(".") or os.path.realpath(folder) == results:
                    folders.remove(name)
                elif folder.is_symlink():
                    folders.remove(name)
                    waiting.append(folder)
            folders.sort()
            below = Path(place).relative_to(top).as_posix()
            for name in sorted(files):
                why = _why_not_read(Path(place, name))
                if why is None:
                    yield Path(place, name), "" if below == "." else below
                elif why:
                    found.skipped.append((why, name))


def _why_not_read(file: Path) -> str | None:
    """Returns why a file in a folder is skipped, for people; "" if it need not be reported, None for a photo."""
    kind = file.suffix.lower()
    if file.name.startswith(".") or (kind and kind not in decoders.EXTENSIONS | _IMAGE_LIKE) or _is_result(file):
        return ""
    if not os.path.exists(file):
        return "link that leads nowhere"
    if not os.path.isfile(file):
        return ""
    if file.name.endswith(RESULTS):
        return _LIKE_RESULT
    if kind in decoders.EXTENSIONS:
        return None
    return kind[1:].upper() if kind else _WITHOUT_SUFFIX


def _is_result(file: Path) -> bool:
    """Whether a file is of an earlier run: its name says so, and the sidecar lies beside it or is the file itself."""
    ending = next((each for each in RESULTS if file.name.endswith(each)), None)
    return ending is not None and os.path.exists(f"{str(file).removesuffix(ending)}.{formats.SIDECAR}")


def _cannot_read(error: OSError, found: Found) -> None:
    found.unreadable.append((Path(error.filename), error.strerror or str(error)))
