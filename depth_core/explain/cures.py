"""What to do about an image that has no depth map: the advice for each kind of error, and the run that tries again.

Whether a kind is temporary or permanent is in errors.py. Jobs are Dagster's, in pipelines/jobs; a test compares the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from depth_core.errors import ErrorKind


class Stage(StrEnum):
    """How far a row has got: the first stage that failed decides."""

    ROW = "row"  # its row in the manifest is wrong
    SOURCE = "source"  # its image could not be fetched
    IMAGE = "image"  # its image could not be decoded, or the network could not compute it
    NOT_FETCHED = "not fetched"  # nobody has tried to
    NOT_MADE = "not made"  # its image is there, and no run has had it since
    DONE = "done"
    FILES_LOST = "files lost"  # done, but files of the depth map are no longer there


@dataclass(frozen=True)
class Cure:
    """What to do, in this order: the advice, then the commands."""

    advice: str = ""
    jobs: tuple[tuple[str, str], ...] = ()  # name and partition key
    verify: bool = False  # the job of depth maps must check files, which takes run config
    by_itself: bool = False  # every later run of the chunk tries again

    @property
    def commands(self) -> list[str]:
        """For a shell with DAGSTER_HOME. Keys of partitions have no character that a shell takes for itself but |."""
        if self.verify:
            return [f"{_WITH_CONFIG} --partition '{partition}' --config-json '{VERIFY}'" for _, partition in self.jobs]
        return [f"dagster job backfill -w workspace.yaml -j {job} --partitions '{key}' --noprompt" for job, key in self.jobs]


VERIFY = '{"ops": {"depth_maps": {"ops": {"generate_depth_maps": {"config": {"verify": true}}}}}}'
_WITH_CONFIG = "dagster asset materialize -m pipelines.definitions --select depth_maps,artwork_records,depth_gallery"


ADVICE = {
    ErrorKind.BAD_ROW: "correct the row in the manifest",
    ErrorKind.MISSING_URL: "give the row an image_url in the manifest",
    ErrorKind.BAD_URL: "correct the URL in the manifest",
    ErrorKind.NOT_FOUND: "put the image back where the URL says, or correct the URL in the manifest",
    ErrorKind.FORBIDDEN: (
        "allow the access: DEPTH_SOURCE_ROOTS for local files, DEPTH_MANIFEST_BUCKETS and DEPTH_SOURCE_OPTIONS for buckets, the "
        "server's own rules for http; the message says which"
    ),
    ErrorKind.BLOCKED_ADDRESS: "the host is private: set DEPTH_MANIFEST_PRIVATE_HOSTS=true if the manifest is yours",
    ErrorKind.REFUSED: "ask the server's operator, or correct the URL in the manifest",
    ErrorKind.UNREACHABLE: "check that the host can be reached from here",
    ErrorKind.TIMEOUT: "raise DEPTH_READ_TIMEOUT and DEPTH_TOTAL_TIMEOUT if the server is slow",
    ErrorKind.RATE_LIMITED: "lower DEPTH_DOWNLOAD_PER_HOST",
    ErrorKind.SERVER_ERROR: "lower DEPTH_DOWNLOAD_PER_HOST if the server is overloaded",
    ErrorKind.TOO_MANY_REDIRECTS: "correct the URL in the manifest, or raise DEPTH_MAX_REDIRECTS",
    ErrorKind.TOO_MANY_BYTES: "use a smaller file, or raise DEPTH_MAX_SOURCE_BYTES",
    ErrorKind.EMPTY_FILE: "replace the image at its origin: it has no byte",
    ErrorKind.NOT_AN_IMAGE: "replace the file at its origin by an image",
    ErrorKind.EXTENSION_MISMATCH: "rename the image at its origin, or unset DEPTH_STRICT_EXTENSION",
    ErrorKind.TRUNCATED_IMAGE: "replace the image at its origin: it ends early or is damaged",
    ErrorKind.TOO_SMALL: "use a larger image, or lower DEPTH_MIN_IMAGE_SIDE",
    ErrorKind.TOO_MANY_PIXELS: "use a smaller image, or raise DEPTH_MAX_IMAGE_PIXELS or DEPTH_DECODE_MEMORY, as the message says",
    ErrorKind.MODEL_UNAVAILABLE: "get the weights: see `depthline models`",
    ErrorKind.NETWORK_TOO_LARGE: "raise DEPTH_MAX_NETWORK_PIXELS if the device has the memory",
    ErrorKind.OUT_OF_MEMORY: "lower resolutionLowerLimit or DEPTH_BATCH_PIXELS, or use a smaller model",
    ErrorKind.INVALID_OUTPUT: "use another model or precision (DEPTH_PRECISION=fp32)",
    ErrorKind.WORKER_LOST: "replace the image at its origin if it crashes its decoder, or raise DEPTH_DECODE_SECONDS",
    ErrorKind.INTERNAL: "report the message if it comes again",
}


def kind_of(name: str | None) -> ErrorKind:
    """The error kind of a record; one that this version does not know counts as internal."""
    return ErrorKind(name) if name in set(ErrorKind) else ErrorKind.INTERNAL


def of_row(stage: Stage, error_kind: str | None, *, chunk: str, profile: str) -> Cure:
    """What to do about a row of a manifest under one profile."""
    pair = f"{chunk}|{profile}"
    kind = kind_of(error_kind)
    if stage is Stage.DONE:
        return Cure()
    if stage is Stage.FILES_LOST:
        return Cure(jobs=(("depth_maps_for_chunk", pair),), verify=True)
    if stage in (Stage.NOT_FETCHED, Stage.ROW):  # rows are validated by the job that fetches
        jobs = (("ingest_chunk", chunk), ("depth_maps_for_chunk", pair))
        return Cure(ADVICE[kind] if stage is Stage.ROW else "", jobs)
    if stage is Stage.NOT_MADE:
        return Cure(jobs=(("depth_maps_for_chunk", pair),))
    if kind.retryable:
        return Cure(ADVICE[kind], (("retry_failed_rows", pair),), by_itself=True)
    return Cure(ADVICE[kind], (("retry_all_failed_rows", pair),))


def of_request(error_kind: str | None) -> Cure:
    """What to do about a single request that failed."""
    return Cure(ADVICE[kind_of(error_kind)]) if error_kind else Cure()
