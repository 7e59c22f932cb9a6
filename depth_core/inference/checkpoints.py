"""From a model to the file that holds its weights: where from, whether it is there, what names it, whether it may be used.

In this order: a setting or profile that names a path or URL, the checkpoint folder, the Hub, the package itself (tiny). Never
imports torch: output keys need the revision long before a network. What does not belong here: reading weights (weights.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from depth_core.catalog import MODELS, Family, ModelSpec
from depth_core.errors import ModelAbsentError, ModelUnavailableError
from depth_core.inference import sizing, weights
from depth_core.settings import Settings

BUNDLED = Path(__file__).parent / "tiny"
HUB_FILE = "model.safetensors"
HUB_INDEX = HUB_FILE + weights.INDEX  # in its place where a repository holds shards

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_known_sha256: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """One model's weights on this machine."""

    spec: ModelSpec
    source: str  # for people: "bundled", a path, a URL, "hub:repository@commit"
    path: Path  # a folder or a file
    revision: str  # names the weights: the Hub's commit, else the first 16 hex digits of the weights file's sha256 (digest_of)
    licence: str


class Origin(StrEnum):
    SETTING = "setting"  # DEPTH_CHECKPOINTS or the profile's `checkpoint`
    FOLDER = "folder"  # DEPTH_CHECKPOINTS_URL/<family>/<name>
    HUB = "hub"
    BUNDLED = "bundled"


class Presence(StrEnum):
    """Of a model's weights."""

    HERE = "here"  # usable now, without any download
    ABSENT = "not here"  # and nothing is wrong: not fetched yet, never published, refused by their licence
    WRONG = "wrong"  # named by a setting, or here, and of no use


@dataclass(frozen=True)
class ModelRow:
    """What `depthline models` says of one model."""

    spec: ModelSpec
    memory_gib: float  # device memory wanted for one square image at resolutionLowerLimit 1024, float32
    source: str  # where its weights would come from; why not, when they cannot
    presence: Presence


def resolve(
    spec: ModelSpec, settings: Settings, override: str = "", *, download: bool = True, refresh: bool = False
) -> Checkpoint:
    """The model's weights as a local path, fetched when needed and allowed.

    `override`: a profile's path or URL. `refresh`: asks the Hub for the newest state of a branch instead of using what is cached.

    Raises ModelUnavailableError naming the cure: nobody publishes them, the licence forbids it, not there, not reachable,
    corrupt. Never answers with another model.
    """
    if settings.commercial_only and not spec.commercial:
        allowed = ", ".join(other.key for other in MODELS if other.commercial)
        raise ModelAbsentError(
            f"{spec.key} is licensed {spec.licence}, which forbids commercial use, and DEPTH_COMMERCIAL_ONLY is set: "
            f"use one of {allowed}, or unset it"
        )
    origin, location = _origin(spec, settings, override)
    if origin is Origin.HUB:
        return _from_hub(spec, settings, location, download=download, refresh=refresh)
    if origin is Origin.BUNDLED:
        path, source = BUNDLED, "bundled"
    else:
        path, source = _local_copy(location, settings, spec, download=download), location
    file = weights.find(path)
    weights.inspect(file)
    return Checkpoint(spec, source, path, digest_of(file, settings)[:16], spec.licence)


def checked(checkpoint: Checkpoint) -> Checkpoint:
    """The same, unless its patch embedding is another model's: its name tells the family, its first side the size.

    A look ahead that needs no torch; loading compares every tensor that is used. Says nothing of PyTorch files, nor of tiny.
    Raises ModelUnavailableError.
    """
    spec, file = checkpoint.spec, weights.find(checkpoint.path)
    shapes = weights.inspect(file)
    if shapes is None or spec.family is Family.TINY:
        return checkpoint
    nested = spec.name == "nested_giant_large"
    names = {
        Family.V2: ("backbone.embeddings.patch_embeddings.projection.weight", "pretrained.patch_embed.proj.weight"),
        Family.V3: (f"model.{'da3.' if nested else ''}backbone.pretrained.patch_embed.proj.weight",),
    }[spec.family]
    width = next((shapes[name][0] for name in names if shapes.get(name)), None)
    expected = _WIDTHS["giant" if nested else spec.name.rpartition("_")[2]]
    if width != expected:
        reason = f"{names[0]} is missing" if width is None else f"{width} channels, not {expected}"
        raise ModelUnavailableError(f"{file} are no weights of {spec.key} ({reason}): point to that model's own file")
    return checkpoint


_WIDTHS = {"small": 384, "base": 768, "large": 1024, "giant": 1536}


def describe_models(settings: Settings) -> list[ModelRow]:
    """Every model: what it is, where its weights would come from and whether they are there. Downloads nothing."""
    return [_describe(spec, settings) for spec in MODELS]


def _describe(spec: ModelSpec, settings: Settings) -> ModelRow:
    memory = sizing.memory_wanted(spec, sizing.network_size(spec, 1024, 1024, 1024)) / 2**30
    try:
        checkpoint = checked(resolve(spec, settings, download=False))
    except ModelUnavailableError as error:
        presence = Presence.ABSENT if isinstance(error, ModelAbsentError) else Presence.WRONG
        return ModelRow(spec, memory, str(error), presence)
    return ModelRow(spec, memory, checkpoint.source, Presence.HERE)


def fetch(specs: Iterable[ModelSpec], settings: Settings) -> list[Checkpoint]:
    """Gets weights ahead of time, with a progress bar each, and checks them whole. Asks the Hub for the newest state of a branch.

    Raises ModelUnavailableError for the first that cannot be had; those before it stay.
    """
    return [checked(resolve(spec, settings, refresh=True)) for spec in specs]


def digest_of(file: Path, settings: Settings) -> str:
    """What names the weights of a file: its sha256 in hex. Of an index with shards: that of all their sha256, one a line."""
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
    except OSError:  # a read-only home: hash again next time
        part.unlink(missing_ok=True)
    return digest


# -- where from ---------------------------------------------------------------------------------------------------------


def _origin(spec: ModelSpec, settings: Settings, override: str) -> tuple[Origin, str]:
    named = override or settings.checkpoints.get(spec.key, "")
    if named:
        return Origin.SETTING, named
    if settings.checkpoints_url:
        folder = f"{settings.checkpoints_url.rstrip('/')}/{spec.key}"
        if _exists(folder, settings):
            return Origin.FOLDER, folder
    if spec.family is Family.TINY:
        return Origin.BUNDLED, ""
    if spec.repository is None:
        raise ModelAbsentError(
            f"{spec.key} has never been published: to use it, point to weights of your own, in the Hugging Face or the original "
            f'layout, with DEPTH_CHECKPOINTS=\'{{"{spec.key}": "/path/or/s3://url"}}\', the profile\'s `checkpoint`, or a folder '
            f"{spec.key} below DEPTH_CHECKPOINTS_URL"
        )
    return Origin.HUB, spec.repository


def _cache(settings: Settings) -> Path:
    return settings.checkpoint_cache.expanduser()


# -- the Hub ------------------------------------------------------------------------------------------------------------


def _from_hub(spec: ModelSpec, settings: Settings, repository: str, *, download: bool, refresh: bool) -> Checkpoint:
    """A revision that is in the cache is used without asking anybody, so a branch moves only when it is fetched again."""
    revision = settings.hub_revisions.get(spec.key) or spec.revision
    file = None if refresh else _cached_from_hub(repository, revision)
    if file is None:
        if not download:
            raise ModelAbsentError(
                f"{spec.key} is not here yet: `depthline models fetch {spec.key}` gets {repository}@{revision} from the Hub"
            )
        file = _download_from_hub(spec, repository, revision)
    weights.inspect(file)
    commit = file.parent.name
    if revision and _COMMIT.fullmatch(revision) and commit != revision:
        raise ModelUnavailableError(
            f"{spec.key}: asked for {repository}@{revision}, the Hub answered with {commit}: see HF_ENDPOINT"
        )
    for part in weights.files(file):
        # the catalogue's sha256 is that of its own revision; the Hub's cache names large files by theirs
        known = spec.sha256 if part == file and revision == spec.revision else None
        expected = known or part.resolve().name
        if _SHA256.fullmatch(expected) and sha256_of(part, settings) != expected:
            raise ModelUnavailableError(
                f"{part} is corrupt or not the published file (its sha256 is not {expected}): delete {part.resolve()} and "
                "fetch it again, or choose another revision with DEPTH_HUB_REVISIONS"
            )
    return Checkpoint(spec, f"hub:{repository}@{commit}", file, commit, spec.licence)


def _cached_from_hub(repository: str, revision: str | None) -> Path | None:
    """The weights file or the index in the Hub's cache, when all that belongs to it is there too."""
    import huggingface_hub

    def cached(name: str, revision: str | None) -> Path | None:
        found = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        return Path(found) if isinstance(found, str) else None

    if (file := cached(HUB_FILE, revision)) is not None:
        return file
    index = cached(HUB_INDEX, revision)
    if index is None:
        return None
    shards = weights.parse_index(index.read_bytes(), str(index)).shards
    return index if all(cached(name, index.parent.name) for name in shards) else None


def _download_from_hub(spec: ModelSpec, repository: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    def get(name: str, revision: str | None) -> Path:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))

    try:
        try:
            return get(HUB_FILE, revision)
        except errors.LocalEntryNotFoundError:  # nobody could be asked
            raise
        except errors.EntryNotFoundError as failure:
            try:
                index = get(HUB_INDEX, revision)
            except errors.EntryNotFoundError:
                raise failure from None
        for name in weights.parse_index(index.read_bytes(), f"{repository}/{HUB_INDEX}").shards:
            get(name, index.parent.name)  # of the index's commit, wherever the branch is by now
        return index
    except (
        errors.GatedRepoError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    ) as error:
        cure = "check DEPTH_HUB_REVISIONS and HF_ENDPOINT, set HF_TOKEN if the mirror wants one"
        if isinstance(error, errors.LocalEntryNotFoundError):
            cure = "HF_HUB_OFFLINE is set or the Hub cannot be reached"
        reason = error
    except (OSError, errors.HfHubHTTPError) as failure:
        cure, reason = "is the Hub reachable, is there room on the disk?", failure
    raise ModelUnavailableError(
        f"{spec.key}: cannot fetch {repository}@{revision} from the Hub: {cure} ({_one_line(reason)}). Without the Hub: put "
        f'{HUB_FILE} somewhere and set DEPTH_CHECKPOINTS=\'{{"{spec.key}": "/path/{HUB_FILE}"}}\', or DEPTH_CHECKPOINTS_URL'
    ) from reason


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


# -- paths and fsspec URLs ----------------------------------------------------------------------------------------------


def _file_system(url: str, settings: Settings) -> tuple[Any, str]:
    options = settings.source_options if "://" in url and not url.startswith("file://") else {}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise ModelUnavailableError(f"checkpoint {url}: {error}") from None
    return fs, path


def _exists(url: str, settings: Settings) -> bool:
    fs, path = _file_system(url, settings)
    try:
        return bool(fs.exists(path))
    except Exception as error:
        raise ModelUnavailableError(f"cannot look at {url} (DEPTH_CHECKPOINTS_URL): {error}") from error


def _local_copy(url: str, settings: Settings, spec: ModelSpec, *, download: bool) -> Path:
    """The path of a local file or folder; for a URL, of its copy in the cache, which a change at the URL makes stale."""
    fs, path = _file_system(url, settings)
    if isinstance(fs, LocalFileSystem):
        if not fs.exists(path):
            raise ModelUnavailableError(
                f"{spec.key}: no weights at {path}: correct DEPTH_CHECKPOINTS or the profile's `checkpoint`"
            )
        return Path(path)
    try:
        files = _remote_files(fs, path, url)
        state = repr((url, sorted((name, sorted(info.items(), key=str)) for name, info in files.items())))
        target = _cache(settings) / "weights" / hashlib.sha256(state.encode()).hexdigest()[:32]
        copy = target if fs.isdir(path) else target / next(iter(files)).rsplit("/", 1)[-1]
        if not target.exists():
            if not download:
                raise ModelAbsentError(f"{spec.key} is not here yet: `depthline models fetch {spec.key}` gets it from {url}")
            _download(fs, files, target)
    except ModelUnavailableError:
        raise
    except Exception as error:
        raise ModelUnavailableError(
            f"{spec.key}: cannot fetch {url} ({type(error).__name__}: {error}): check the URL and DEPTH_SOURCE_OPTIONS"
        ) from error
    return copy


def _remote_files(fs: Any, path: str, url: str) -> dict[str, dict[str, Any]]:
    """What to fetch, with what the store says of each: the file, a folder's weights and configuration, an index's shards."""
    fs.invalidate_cache()
    if fs.isfile(path):
        found = {path: fs.info(path)}
        return found | _remote_shards(fs, path, url) if path.endswith(weights.INDEX) else found
    there = {name: info for name, info in fs.find(path, maxdepth=1, detail=True).items() if info["type"] == "file"}
    try:
        chosen = weights.choose([name.rsplit("/", 1)[-1] for name in there], url)
    except ModelUnavailableError as error:
        if there:
            raise
        raise ModelUnavailableError(
            f"no weights at {url}, neither a file nor a folder with one ending in {', '.join(weights.SUFFIXES)}: check the URL, "
            "and DEPTH_SOURCE_OPTIONS for the server and its keys"
        ) from error
    file = next(name for name in there if name.rsplit("/", 1)[-1] == chosen)
    found = {file: there[file]} | {
        name: info for name, info in there.items() if name.endswith(".json") and not name.endswith(weights.INDEX)
    }
    return found | _remote_shards(fs, file, url) if file.endswith(weights.INDEX) else found


def _remote_shards(fs: Any, index: str, url: str) -> dict[str, dict[str, Any]]:
    folder = index.removesuffix(index.rsplit("/", 1)[-1])
    shards = [folder + name for name in weights.parse_index(fs.cat_file(index), url).shards]
    missing = [shard for shard in shards if not fs.isfile(shard)]
    if missing:
        raise ModelUnavailableError(f"{index} names shards that are not there: {', '.join(missing)}")
    return {shard: fs.info(shard) for shard in shards}


def _download(fs: Any, files: dict[str, dict[str, Any]], target: Path) -> None:
    """All files or none: into a folder beside `target`, then renamed. One process downloads, the others wait for it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
        part.mkdir()
        try:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            with Progress(*columns, transient=True) as progress:
                for name, info in files.items():
                    copy, task = part / name.rsplit("/", 1)[-1], progress.add_task(name, total=info.get("size"))
                    with fs.open(name, "rb") as remote, copy.open("wb") as local:
                        while block := remote.read(4 * 2**20):
                            local.write(block)
                            progress.advance(task, len(block))
                    if info.get("size") not in (None, copy.stat().st_size):
                        raise ModelUnavailableError(f"{name}: got {copy.stat().st_size} of {info['size']} bytes; try again")
            weights.inspect(weights.find(part))
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
