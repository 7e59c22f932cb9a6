"""Profiles of what files say about their colours without one: code points (ITU-T H.273; PNG, AVIF), gamma and primaries (PNG).

High dynamic range (PQ, HLG) becomes what a display without it shows: its reference white is white, what is brighter is cut.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Curve = npt.NDArray[np.float64]  # light, 0 to 1, of evenly spaced samples
Chromaticities = tuple[float, ...]  # x, y of white, red, green, blue

_D65 = (0.3127, 0.3290)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_SAMPLES = 4096
_NEAR = 0.01  # of a chromaticity
_GAMMA_OF_SRGB = 1 / 0.45455
_NEAR_GAMMA = 0.05  # as libpng and browsers: nearer is the same
_WHITE_NITS = 203.0  # of PQ's reference white (BT.2408)
_WHITE_HLG = 0.75


def of_code_points(primaries: int, transfer: int, *, gray: bool = False) -> bytes | None:
    """None for sRGB, and for what is unknown: BT.709's camera curve among them, which viewers show as sRGB."""
    where = _PRIMARIES.get(primaries, SRGB)
    if transfer not in _CURVES and (where == SRGB or gray):
        return None
    return _profile(where, transfer, 0.0, gray)


def of_gamma(gamma: float, where: Chromaticities | None, *, gray: bool = False) -> bytes | None:
    """Of samples that are light to the power of `gamma`, in primaries, if said. None for sRGB, and for what makes no sense."""
    if where is None or len(where) != 8 or not all(y > 0.0 for y in where[1::2]) or not all(abs(part) <= 2 for part in where):
        where = SRGB
    same = abs(1 / gamma / _GAMMA_OF_SRGB - 1) < _NEAR_GAMMA if 0.1 <= gamma <= 10 else True
    near = gray or max(abs(a - b) for a, b in zip(where, SRGB, strict=True)) < _NEAR
    if same and near:
        return None
    return _profile(where, 0, 0.0 if same else 1 / gamma, gray)


def _pq(signal: Curve) -> Curve:
    root = signal ** (32 / 2523)
    nits: Curve = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)
    return nits / _WHITE_NITS


def _hlg(signal: Curve) -> Curve:
    def light(signal: Curve) -> Curve:
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)

    shown: Curve = (light(signal) / light(np.array([_WHITE_HLG]))) ** 1.2
    return shown


def _srgb(signal: Curve) -> Curve:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


_CURVES = {4: lambda signal: signal**2.2, 5: lambda signal: signal**2.8, 8: lambda signal: signal, 16: _pq, 18: _hlg}


@lru_cache(maxsize=32)
def _profile(where: Chromaticities, transfer: int, exponent: float, gray: bool) -> bytes:
    import imagecodecs

    signal = np.linspace(0, 1, _SAMPLES)
    curve = signal**exponent if exponent else _CURVES.get(transfer, _srgb)(signal)
    levels = np.round(curve.clip(0, 1) * 65535).astype(np.uint16)
    profile: bytes = imagecodecs.cms_profile(
        "gray" if gray else "rgb", whitepoint=where[:2], primaries=None if gray else list(where[2:]), transferfunction=levels
    )
    return profile
