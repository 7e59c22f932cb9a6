"""What a manifest will cost under a profile, put together: images, bytes, device hours, requests, disk, and what is assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from depth_core import profiles
from depth_core.errors import ImageError, ModelUnavailableError
from depth_core.inference import checkpoints
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import manifest
from depth_core.ingest.fetch.sizes import sizes
from depth_core.output import depth_folder, formats
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.outcomes import SUCCEEDED
from depth_core.plan import images, requests, trial
from depth_core.plan.images import Images
from depth_core.plan.trial import Trial
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

THUMBNAILS = 9_000  # bytes of an image's two in the gallery: a round figure of their order
_FOLDERS = 20  # whose files are measured, where the store has some


@dataclass(frozen=True)
class Estimate:
    """What is known, measured or assumed of a manifest under a profile. None: not known."""

    manifest: str
    profile: str
    rows: int
    bad_rows: int  # that cannot be read, or name no image that can be fetched
    images: Images
    rows_per_chunk: int
    chunks: int
    profiles: int
    bytes_per_source: float | None
    sizes_asked: int
    sizes_known: int
    images_per_second: float | None  # None: nothing is to be made, and none was given
    trial: Trial | None
    bytes_per_depth_map: float | None  # of all its files
    files_per_depth_map: int
    requests: dict[str, int]  # to a store in S3, by operation

    @property
    def partitions(self) -> int:
        return self.chunks * self.profiles

    @property
    def download_bytes(self) -> float | None:
        return 0.0 if not self.images.to_fetch else _times(self.images.to_fetch, self.bytes_per_source)

    @property
    def device_hours(self) -> float:
        return self.images.to_make / (self.images_per_second or 1.0) / 3600

    @property
    def disk_bytes(self) -> float | None:
        depth = 0.0 if not self.images.to_make else _times(self.images.to_make, self.bytes_per_depth_map)
        return None if depth is None or self.download_bytes is None else self.download_bytes + depth + self.thumbnail_bytes

    @property
    def thumbnail_bytes(self) -> float:
        return self.images.to_make * THUMBNAILS

    @property
    def assumptions(self) -> list[str]:
        """What the figures rest on, for people."""
        found = [f"{THUMBNAILS:,} bytes of thumbnails an image, {self.files_per_depth_map} files a depth map"]
        if self.images.is_estimate:
            found.append(f"what the store has already of another manifest's images: as in a sample of {self.sizes_asked:,}")
        if self.images.to_fetch:
            found.append("images are as large as those of the sample, every download succeeds at the first attempt")
        if self.trial and not self.trial.pictures:
            found.append("the trial's pictures were drawn, 1.5 to 2.1 megapixels: real ones may take longer to decode")
        if self.trial:
            found.append("other devices of the same kind are as fast as this one, and nothing else is at work there")
        return found

    def as_json(self) -> dict[str, Any]:
        """The figures by name; null where one is not known."""
        of = self.images
        return {
            "manifest": self.manifest,
            "profile": self.profile,
            "rows": self.rows,
            "badRows": self.bad_rows,
            "images": of.different,
            "imagesToFetch": of.to_fetch,
            "depthMapsToMake": of.to_make,
            "imagesGivenUp": of.given_up,
            "isEstimate": of.is_estimate,
            "rowsPerChunk": self.rows_per_chunk,
            "chunks": self.chunks,
            "profiles": self.profiles,
            "partitions": self.partitions,
            "sizesAsked": self.sizes_asked,
            "sizesKnown": self.sizes_known,
            "bytesPerSource": self.bytes_per_source,
            "downloadBytes": self.download_bytes,
            "imagesPerSecond": self.images_per_second,
            "imagesPerSecondMeasured": self.trial is not None,
            "device": self.trial.device if self.trial else None,
            "deviceHours": self.device_hours,
            "requests": self.requests,
            "bytesPerDepthMap": self.bytes_per_depth_map,
            "diskBytes": self.disk_bytes,
            "assumptions": self.assumptions,
        }


def _times(count: int, size: float | None) -> float | None:
    return None if size is None else count * size


def estimate(
    uri: str, profile_name: str, store: Store, settings: Settings, *, images_per_second: float, sample: int, seconds: float
) -> Estimate:
    """Computes what a manifest will cost. `images_per_second`: 0 measures it here, for `seconds`. `sample`: of how many images
    that the store does not have the size is asked.

    Raises ManifestError, ConfigurationError for an unknown profile, ModelUnavailableError, StoreError.
    """
    known = profiles.of(settings)
    profile = profiles.find(settings, profile_name)
    checkpoint = _checkpoint(profile, settings, needed=not images_per_second)
    rows = manifest.read(uri, settings)
    slug = manifest.slug(uri)
    index = manifest.read_index(store, slug)
    size = manifest.rows_per_chunk(len(rows), len(known), settings, index)
    assignment = manifest.assign_chunks(rows, index, slug=slug, rows_per_chunk=size)
    digest = None
    if checkpoint is not None and profile.range != "chunk":
        value_range = profile.range if isinstance(profile.range, tuple) else None
        digest = depth_folder.digest_of(profile.parameters, checkpoint.revision, value_range, profile.extra_files)
    found = images.find(
        rows,
        index.names if index is not None else (),
        store,
        settings,
        profile=profile.name,
        digest=digest,
        sample=sample,
    )
    answers = [size for _, size in sizes(found.sample, settings, allow_private=settings.manifests_may_be_private)]
    known_sizes = [size for size in answers if not isinstance(size, ImageError)]
    tried = None
    if checkpoint is not None and not images_per_second and found.to_make:
        tried = trial.run(found.sample, profile, checkpoint, settings, seconds=seconds)
    files = len(formats.asked_for(profile.parameters, profile.extra_files)) + 1
    counts = requests.of_work(chunks=len(assignment.names), to_fetch=found.to_fetch, to_make=found.to_make, files=files)
    return Estimate(
        manifest=uri,
        profile=profile.name,
        rows=len(rows),
        bad_rows=found.unusable_rows,
        images=replace(found, sample=()),
        rows_per_chunk=size,
        chunks=len(assignment.names),
        profiles=len(known),
        bytes_per_source=mean(known_sizes) if known_sizes else found.known_bytes,
        sizes_asked=len(answers),
        sizes_known=len(known_sizes),
        images_per_second=tried.images_per_second if tried else images_per_second or None,
        trial=tried,
        bytes_per_depth_map=tried.bytes_per_image if tried else _measured(index, store, profile.name),
        files_per_depth_map=files,
        requests=dict(counts),
    )


def _checkpoint(profile: Profile, settings: Settings, *, needed: bool) -> Checkpoint | None:
    """The profile's weights. Not fetched where they are not needed; None where they then are not here."""
    spec = profile.parameters.spec
    if needed:
        return checkpoints.resolve(spec, settings, profile.checkpoint)
    try:
        return checkpoints.resolve(spec, settings, profile.checkpoint, download=False)
    except ModelUnavailableError:
        return None


def _measured(index: manifest.Index | None, store: Store, profile: str) -> float | None:
    """Mean bytes of the files of some depth maps that the store has of this manifest; None when it has none."""
    for chunk in index.names if index is not None else ():
        outcomes = read_outcomes(store, profile, chunk).values()
        folders = [each.folder for each in outcomes if each.status == SUCCEEDED][:_FOLDERS]
        if found := [sum(entry["size"] or 0 for entry in store.entries(folder)) for folder in folders]:
            return mean(found)
    return None
