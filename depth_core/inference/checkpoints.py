"""Finds the file with a model's weights: where it comes from, whether it is here, its revision, whether it may be used.

In this order: a setting or profile that names a path or URL, the checkpoint folder, the Hub, the package itself. Never imports
torch: output keys need the revision long before a network. What does not belong here: copies of what URLs name
(weights_cache.py), reading weights (weights.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from depth_core.catalog import MODELS, ModelSpec
from depth_core.errors import ModelAbsentError, ModelUnavailableError
from depth_core.inference import sizing, weights, weights_cache
from depth_core.settings import Settings

BUNDLED = Path(__file__).parent / "tiny"
HUB_FILE = "model.safetensors"
HUB_INDEX = HUB_FILE + weights.INDEX  # in its place where a repository holds shards

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONNECT_SECONDS = 5.0
_known_sha256: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """One model's weights on this machine."""

    spec: ModelSpec
    source: str  # for people: "bundled", a path, a URL as weights_cache.shown() gives it, "hub:repository@commit"
    path: Path  # a folder or a file
    revision: str  # names the weights: the Hub's commit, else the first 16 hex digits of the weights file's sha256 (digest_of)
    licence: str
    named: str = field(default="", repr=False, compare=False)  # `override` of `resolve`, so that another machine can resolve it


class Presence(StrEnum):
    """Whether a model's weights are here."""

    HERE = "here"  # usable now, without any download
    ABSENT = "not here"  # and nothing is wrong: not fetched yet, never published, refused by their licence
    WRONG = "wrong"  # named by a setting, or here, and of no use


@dataclass(frozen=True)
class ModelRow:
    """What `depthline models` shows of one model."""

    spec: ModelSpec
    memory_gib: float  # device memory for one square image at resolutionLowerLimit 1024, float32
    source: str  # where its weights would come from; why not, when they cannot
    presence: Presence


def resolve(
    spec: ModelSpec,
    settings: Settings,
    override: str = "",
    *,
    download: bool = True,
    refresh: bool = False,
    outage: Exception | None = None,
) -> Checkpoint:
    """Returns the model's weights as a local path, fetched when needed and allowed. Never those of another model.

    `override`: a profile's path or URL. `refresh`: asks the Hub for the newest state of a branch instead of using what is cached,
    and never falls back to the copy of a URL that cannot be reached. `outage`: why the store of DEPTH_CHECKPOINTS_URL does not
    answer, where that is known already; it is not asked again.

    Raises ModelUnavailableError with the cure when nobody publishes the weights, the licence forbids their use, or they are
    missing, unreachable or corrupt.
    """
    if settings.commercial_only and not spec.commercial:
        allowed = ", ".join(other.key for other in MODELS if other.commercial)
        raise ModelAbsentError(
            f"{spec.key} is licensed {spec.licence}, which forbids commercial use, and DEPTH_COMMERCIAL_ONLY is set: "
            f"use one of {allowed}, or unset it"
        )
    named = override or settings.checkpoints.get(spec.key, "")
    folder = f"{settings.checkpoints_url.rstrip('/')}/{spec.key}" if settings.checkpoints_url else ""
    if named:
        source, path = named, weights_cache.local(named, settings, spec.key, download=download, refresh=refresh)
        if path is None:
            raise ModelUnavailableError(
                f"{spec.key}: no weights at {weights_cache.shown(named)}: correct DEPTH_CHECKPOINTS or the profile's `checkpoint`"
                + ("; DEPTH_SOURCE_OPTIONS names the server and its keys" if "://" in named else "")
            )
    elif folder and (found := weights_cache.local(folder, settings, spec.key, download=download, refresh=refresh, outage=outage)):
        source, path = folder, found
    elif spec.bundled:
        source, path = "bundled", BUNDLED
    elif spec.repository:
        return _from_hub(spec, settings, spec.repository, download=download, refresh=refresh)
    else:
        raise ModelAbsentError(
            f"{spec.key} has never been published: to use it, point to weights of your own, in the Hugging Face or the original "
            f'layout, with DEPTH_CHECKPOINTS=\'{{"{spec.key}": "/path/or/s3://url"}}\', the profile\'s `checkpoint`, or a folder '
            f"{spec.key} below DEPTH_CHECKPOINTS_URL"
        )
    file = weights.find(path)
    weights.inspect(file)
    return Checkpoint(spec, weights_cache.shown(source), path, digest_of(file, settings)[:16], spec.licence, named=override)


def checked(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the same checkpoint after a quick check: its files are there, and its patch embedding is that of the model.

    The embedding's name identifies the family, its width the model. Loading compares every tensor that is used. A PyTorch file
    has to be read for this, which alone needs torch. Raises ModelUnavailableError.
    """
    spec, file = checkpoint.spec, weights.find(checkpoint.path)
    if spec.family.config_files:
        needed = (file.name if file.name == HUB_INDEX else HUB_FILE, *spec.family.config_files)
        missing = [name for name in needed if not (checkpoint.path / name).is_file()]
        if missing:
            raise ModelUnavailableError(f"{checkpoint.path} lacks {', '.join(missing)}: {spec.key} is a folder with all of them")
    names = [spec.key_prefix + name for name in spec.family.patch_embeddings]
    if not names:
        return checkpoint
    shapes = weights.inspect(file)
    if shapes is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.read(file).items()}
    width = next((shapes[name][0] for name in names if shapes.get(name)), None)
    if width != spec.width:
        reason = f"{names[0]} is missing" if width is None else f"{width} channels, not {spec.width}"
        raise ModelUnavailableError(f"{file} does not hold the weights of {spec.key} ({reason}): point to that model's own file")
    return checkpoint


def describe_models(settings: Settings, *, read_pytorch: bool = True) -> list[ModelRow]:
    """Describes every model: where its weights would come from and whether they are here. Downloads nothing.

    `read_pytorch`: False leaves files unread that only torch can read, and takes them for good.
    """
    outage = weights_cache.find_outage(settings.checkpoints_url, settings) if settings.checkpoints_url else None
    return [_describe(spec, settings, outage, read_pytorch) for spec in MODELS]


def _describe(spec: ModelSpec, settings: Settings, outage: Exception | None, read_pytorch: bool) -> ModelRow:
    memory = sizing.memory_wanted(spec, sizing.network_size(spec, 1024, 1024, 1024)) / 2**30
    try:
        checkpoint = resolve(spec, settings, download=False, outage=outage)
        if read_pytorch or weights.inspect(weights.find(checkpoint.path)) is not None:
            checked(checkpoint)
    except ModelUnavailableError as error:
        presence = Presence.ABSENT if isinstance(error, ModelAbsentError) else Presence.WRONG
        return ModelRow(spec, memory, str(error), presence)
    return ModelRow(spec, memory, checkpoint.source, Presence.HERE)


def fetch(spec: ModelSpec, settings: Settings) -> Checkpoint:
    """Gets weights ahead of time, with a progress bar, and checks them whole. Asks the Hub for the newest state of a branch.

    Raises ModelUnavailableError.
    """
    return checked(resolve(spec, settings, refresh=True))


def digest_of(file: Path, settings: Settings) -> str:
    """The name of a file's weights: its sha256 in hex; of an index with shards, the sha256 of all of theirs, one a line."""
    digests = [sha256_of(part, settings) for part in weights.files(file)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def sha256_of(file: Path, settings: Settings) -> str:
    """The file's sha256 in hex. Remembered by path, size and time of change, in memory and beside fetched weights."""
    status = file.stat()
    key = (os.path.realpath(file), status.st_size, status.st_mtime_ns)
    if key not in _known_sha256:
        note = _cache(settings) / "sha256" / hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        _known_sha256[key] = _noted(note) or _hash_and_note(file, note)
    return _known_sha256[key]


def _noted(note: Path) -> str | None:
    try:
        text = note.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if _SHA256.fullmatch(text) else None


def _hash_and_note(file: Path, note: Path) -> str:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    part = note.with_suffix(f".{uuid.uuid4().hex[:8]}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(digest, "ascii")
        part.replace(note)
    except OSError:  # a read-only home, or no folder at all: hash again next time
        with suppress(OSError):
            part.unlink()
    return digest


def _cache(settings: Settings) -> Path:
    return settings.checkpoint_cache.expanduser()


# -- the Hub ------------------------------------------------------------------------------------------------------------


def _from_hub(spec: ModelSpec, settings: Settings, repository: str, *, download: bool, refresh: bool) -> Checkpoint:
    """Uses a revision that is in the cache without asking the Hub: a branch moves only when it is fetched again."""
    revision = settings.hub_revisions.get(spec.key) or spec.revision
    file = None if refresh else _cached_from_hub(spec, repository, revision)
    if file is None:
        if not download:
            raise ModelAbsentError(f"{spec.key} is not here yet: {_fetch(spec)} gets {repository}@{revision} from the Hub")
        file = _download_from_hub(spec, repository, revision)
    if revision and _COMMIT.fullmatch(revision) and file.parent.name != revision:
        raise ModelUnavailableError(
            f"{spec.key}: asked for {repository}@{revision}, the Hub answered with {file.parent.name}: see HF_ENDPOINT"
        )
    error = _hub_error(file, spec, settings, revision)
    if error and refresh:  # perhaps the cached copy is damaged: the Hub's library does not check it
        file = _download_from_hub(spec, repository, revision, force=True)
        error = _hub_error(file, spec, settings, revision)
    if error:
        cure = "the Hub sent this: check HF_ENDPOINT, or choose" if refresh else f"{_fetch(spec)} gets it again, or choose"
        raise ModelUnavailableError(f"{error}; {cure} another revision with DEPTH_HUB_REVISIONS")
    commit = file.parent.name
    path = file.parent if spec.family.config_files else file
    return Checkpoint(spec, f"hub:{repository}@{commit}", path, commit, spec.licence)


def _hub_error(file: Path, spec: ModelSpec, settings: Settings, revision: str | None) -> str:
    """Returns what is wrong with a file in the Hub's cache; "" when nothing is."""
    try:
        weights.inspect(file)
        for part in weights.files(file):
            # the catalogue's sha256 is that of its own revision; the Hub's cache names large files by theirs
            known = spec.sha256 if part == file and revision == spec.revision else None
            expected = known or part.resolve().name
            if _SHA256.fullmatch(expected) and sha256_of(part, settings) != expected:
                return f"{part} is corrupt or not the published file (its sha256 is not {expected})"
    except ModelUnavailableError as error:
        return str(error)
    return ""


def _cached_from_hub(spec: ModelSpec, repository: str, revision: str | None) -> Path | None:
    """Returns the weights file or index in the Hub's cache; None unless all that belongs to it is there too."""
    import huggingface_hub

    def cached(name: str, revision: str | None) -> Path | None:
        found = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        return Path(found) if isinstance(found, str) else None

    file = cached(HUB_FILE, revision) or cached(HUB_INDEX, revision)
    return file if file and all(cached(name, file.parent.name) for name in _beside(file, spec)) else None


def _beside(file: Path, spec: ModelSpec) -> list[str]:
    """Returns the names of what a model needs beside its weights file or index: the configuration, and the shards of an index.

    A bad index has no shards: _hub_error says what is wrong with it.
    """
    config = list(spec.family.config_files)
    if file.name != HUB_INDEX:
        return config
    try:
        return config + weights.parse_index(file.read_bytes(), str(file)).shards
    except ModelUnavailableError:
        return config


def _download_from_hub(spec: ModelSpec, repository: str, revision: str | None, *, force: bool = False) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    def get(name: str, revision: str | None) -> Path:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision, force_download=force))

    try:
        _check_hub_answers()
        try:
            file = get(HUB_FILE, revision)
        except errors.RemoteEntryNotFoundError as failure:
            try:
                file = get(HUB_INDEX, revision)
            except errors.RemoteEntryNotFoundError:
                raise failure from None
        for name in _beside(file, spec):
            get(name, file.parent.name)  # of the same commit, wherever the branch is by now
        return file
    except (
        errors.GatedRepoError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
    ) as error:
        cure, reason = (
            "check DEPTH_HUB_REVISIONS and HF_ENDPOINT, set HF_TOKEN if the mirror needs one",
            weights_cache.reason(error),
        )
    except (OSError, ValueError, errors.HfHubHTTPError) as error:  # ValueError: offline by HF_HUB_OFFLINE
        cure, reason = "check HF_HUB_OFFLINE, the connection to the Hub and the free disk space", weights_cache.reason(error)
    raise ModelUnavailableError(
        f"{spec.key}: cannot fetch {repository}@{revision} from the Hub: {cure} ({reason}). Without the Hub: put "
        f'{HUB_FILE} somewhere and set DEPTH_CHECKPOINTS=\'{{"{spec.key}": "/path/{HUB_FILE}"}}\', or DEPTH_CHECKPOINTS_URL'
    )


def _check_hub_answers() -> None:
    """Raises OSError at once when the Hub cannot be reached: its library tries for half a minute first."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:  # the library reports that itself
        return
    session = huggingface_hub.get_session()
    http: Any = import_module(type(session).__module__.partition(".")[0])  # httpx or what has taken its place there
    try:
        session.head(constants.ENDPOINT, timeout=_CONNECT_SECONDS)
    except (http.ConnectError, http.ConnectTimeout, http.ProxyError) as error:
        raise OSError(f"no answer from {constants.ENDPOINT}: {error}") from None
    except http.HTTPError:  # the Hub answers: the download will report what is wrong
        return


def _fetch(spec: ModelSpec) -> str:
    return f"`depthline models fetch {spec.key}`"
