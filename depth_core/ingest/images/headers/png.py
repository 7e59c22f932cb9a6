"""A PNG's header: size, samples, chunks."""

from __future__ import annotations

from struct import unpack_from

from depth_core.ingest.images.headers.header import MEBI, MOST_BLOCKS, UNFOLDED_PROFILE, Header, too_many, unusual_chunks

_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # of each colour type, as decoded


def read(data: bytes) -> Header:
    width = height = chunks = metadata = profile = samples = 0
    transparent = interlaced = foreign = False
    at, end = 8, len(data) - 8
    while at <= end:
        length, kind = unpack_from(">I4s", data, at)
        chunks += 1
        if chunks > MOST_BLOCKS:
            raise too_many("chunks", MOST_BLOCKS)
        if kind == b"IDAT" or kind == b"fdAT":
            pass
        elif kind == b"IHDR":
            wide, high, bits, colour, _, _, passes = unpack_from(">IIBBBBB", data, at + 8)
            width, height = max(width, wide), max(height, high)
            samples = max(samples, _PNG_SAMPLES.get(colour, 4) * (2 if bits > 8 else 1))
            interlaced |= bool(passes)
        elif kind == b"IEND":
            break
        else:
            metadata += length
            transparent |= kind == b"tRNS"
            foreign |= kind in (b"iCCP", b"gAMA", b"cHRM", b"cICP", b"eXIf", b"tEXt", b"zTXt")  # texts may be EXIF
            if kind == b"iCCP":
                profile += length
        at += length + 12
    if transparent:
        samples += 1 if samples != 6 else 2
    # A copy of the file; its samples, which are the result where nothing is to be done to them.
    extra = len(data) + min(1000 * profile, UNFOLDED_PROFILE) + 8 * MEBI
    per_pixel = samples + (0.2 if samples == 3 and not foreign else 3.2)
    if interlaced:  # the last pass, half of the picture, is packed anew, and decoded beside the others
        per_pixel = max(samples + 3.2, 4.4 * samples)
    return Header("png", width, height, per_pixel, extra, unusual_chunks(chunks, metadata))
