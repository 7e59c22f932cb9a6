"""One typed source of configuration: environment variables DEPTH_*, or a `.env` file beside where the program is started.

Read when used, never at import. What does not belong here: parameter sets of depth maps (profiles.py) and Dagster's own
configuration (dagster.yaml).
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from depth_core import catalog
from depth_core.errors import ConfigurationError

MEBI = 1024 * 1024

_PREFIX = r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+"
_OWN_PATHS = ("v2", "docs", "openapi.json", "health", "metrics")
_ORIGIN = r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"


class Settings(BaseSettings):
    """Every setting, its default and what it means. docs/operations.md carries the same table."""

    model_config = SettingsConfigDict(env_prefix="DEPTH_", env_file=".env", extra="ignore", frozen=True)

    # where things are
    data: Path = Field(Path("data"), description="Folder of profiles.toml, manifests and the default store.")
    store_url: str = Field(
        "", description="Where everything that is made goes: a folder or s3://bucket/prefix. Default: <data>/store."
    )
    store_options: dict[str, Any] = Field(
        default_factory=dict, description="JSON, handed to fsspec for the store (endpoint, keys)."
    )
    manifests_url: str = Field(
        "", description="Folder or s3 prefix in which manifests are looked for. Default: <data>/manifests."
    )
    source_options: dict[str, Any] = Field(
        default_factory=dict, description="JSON, handed to fsspec for s3 manifests, images and checkpoints."
    )
    profiles: str = Field("", description="Path or fsspec URL of profiles.toml. Default: <data>/profiles.toml.")
    public_url: str = Field("http://127.0.0.1:8000", description="Where clients reach the HTTP API; results carry it.")

    # manifests
    rows_per_chunk: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Rows of a partition, for new manifests. 0: 1,000, and more where a manifest has over a million rows.",
    )
    partitions_per_run: int = Field(
        20,
        ge=1,
        le=1000,
        description="Chunks that a backfill, a sensor or `make maps` gives to one run, which loads each model once.",
    )
    max_field_chars: int = Field(8192, ge=64, description="A manifest field longer than this makes its row a failed record.")
    max_manifest_bytes: int = Field(
        1024 * MEBI,
        ge=1,
        description="A larger manifest is refused: while it comes over http(s), and while gzip or Parquet is unpacked.",
    )
    max_manifest_rows: int = Field(
        10_000_000,
        ge=1,
        description="A manifest with more rows is refused. Indexing takes 0.3 GB of memory, beyond a million rows 15 bytes a row "
        "more; and 0.1 kB of temporary disk a row.",
    )
    source_roots: list[str] = Field(
        default_factory=list,
        description="JSON, folders below which local manifests may name files. Default: the manifest's own and DEPTH_DATA.",
    )
    manifest_buckets: list[str] = Field(
        default_factory=list,
        description='JSON, buckets that manifests fetched over http(s) may name: ["photos"], or ["s3://photos"].',
    )

    # fetching
    download_concurrency: int = Field(32, ge=1, description="Downloads at once, in all.")
    download_per_host: int = Field(8, ge=1, description="Downloads at once from one host.")
    connect_timeout: float = Field(10.0, gt=0, description="Seconds to connect.")
    read_timeout: float = Field(30.0, gt=0, description="Seconds to wait for the next byte.")
    total_timeout: float = Field(120.0, gt=0, description="Seconds for one attempt at one download.")
    max_source_bytes: int = Field(256 * MEBI, ge=1, description="Larger files are failed records; enforced while reading.")
    download_attempts: int = Field(4, ge=1, description="Attempts at what may get better (429, 5xx, resets, timeouts).")
    backoff_seconds: float = Field(0.5, ge=0, description="First wait between attempts; doubles, with jitter.")
    max_backoff_seconds: float = Field(30.0, ge=0, description="Longest wait, Retry-After included.")
    max_redirects: int = Field(5, ge=0, description="Redirects followed for one download.")
    user_agent: str = Field("depthline/0.1", description="Sent with every download.")
    honour_noai: bool = Field(
        False, description="Refuse images whose server says noai or noimageai (X-Robots-Tag) when they are fetched."
    )
    allow_private_hosts: bool = Field(
        False, description="May URLs that strangers send reach private addresses? Development only."
    )
    manifest_private_hosts: bool | None = Field(
        None, description="May URLs of the operator's manifests reach private addresses? Default: as allow_private_hosts."
    )

    # decoding
    max_image_pixels: int = Field(300_000_000, ge=1, description="Larger images are failed records (decompression bombs).")
    min_image_side: int = Field(8, ge=1, description="Images with a shorter side are failed records.")
    strict_extension: bool = Field(False, description="Fail images whose name says another format than their bytes.")
    decode_memory: int = Field(
        0,
        ge=0,
        description="Bytes that all decoding threads of a process may take together; 0: half of what is free at the start.",
    )
    decode_isolation: Literal["unusual", "all"] = Field(
        "unusual",
        description="Which images are decoded in a process of their own: those out of the ordinary, or all (0.3 s each).",
    )
    decode_seconds: float = Field(
        60.0, ge=1, description="CPU seconds that such a process has for one image; the wall-clock limit is four times that."
    )

    # the network
    device: str = Field(
        "auto", description="auto (cuda, then mps, then cpu), or cpu, cuda, cuda:1, mps, or openvino:GPU, openvino:NPU."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it, fp32 elsewhere.")
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="What computes on a CPU; auto: OpenVINO where it is installed and, as a trial of a second says, faster.",
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="Compile V2 and V3 for an NVIDIA GPU (torch.compile). auto: once a run has made 2,000 images, where a "
        "trial on that card pays; true: when they are loaded, which takes up to a minute.",
    )
    cuda_graphs: bool | Literal["auto"] = Field(
        "auto",
        description="Record the work on batches of one size for an NVIDIA GPU, and replay it (CUDA graphs). auto: from the third "
        "batch of a size, where a trial on that card pays.",
    )
    batch_pixels: int = Field(0, ge=0, description="Network pixels of a batch; 0: chosen from the device.")
    max_network_pixels: int = Field(13_000_000, ge=65_536, description="Thin panoramas that need more are failed records.")
    checkpoints_url: str = Field("", description="Folder or fsspec URL with one subfolder per model (v2/large, ...).")
    checkpoints: dict[str, str] = Field(
        default_factory=dict, description='JSON, model -> path or fsspec URL: {"v2/giant": "s3://weights/giant.safetensors"}.'
    )
    checkpoint_cache: Path = Field(
        Path("~/.cache/depthline"),
        description="Keeps weights from fsspec URLs and networks converted for OpenVINO. The Hub has its own (HF_HOME).",
    )
    hub_revisions: dict[str, str] = Field(
        default_factory=dict, description='JSON, model -> commit, tag or branch of its Hub repository: {"v2/small": "<commit>"}.'
    )
    commercial_only: bool = Field(False, description="Refuse models whose licence forbids commercial use.")

    # the engine
    engine: Literal["local", "ray"] = Field(
        "local",
        description="What runs images through the network; local: threads of one process; ray: actors on a Ray cluster. A "
        "profile may have its own.",
    )
    ray_address: str = Field(
        "", description="The Ray cluster: auto (the one this machine is a node of), ray://host:10001; empty: start one here."
    )
    ray_actors: int = Field(
        0, ge=0, description="Actors on the Ray cluster, each with a network; 0: as many as its nodes have room for."
    )
    ray_cores: int = Field(0, ge=0, description="CPUs of each actor; 0: up to 4, or with a GPU its share of the node's, up to 8.")
    ray_decode: Literal["together", "apart"] = Field(
        "together",
        description="Where images are decoded and resized; together: by the actor that has the network; apart: in CPU tasks of "
        "their own, for GPUs that wait for decoding.",
    )
    ray_block_images: int = Field(0, ge=0, description="Images that go to an actor together; 0: 4, or with a GPU 16.")
    ray_wait_seconds: float = Field(120.0, gt=0, description="Seconds that actors may wait for a place on the Ray cluster.")
    device_run_tags: dict[str, Any] = Field(
        default_factory=dict,
        description="JSON, tags of Dagster runs that use a device; docs/deploy.md has those that ask Kubernetes for a GPU.",
    )
    lock_folder: Path | None = Field(
        None,
        description="Files by which programs of one machine share its devices. Default: a temporary folder of this user.",
    )
    decode_threads: int = Field(0, ge=0, description="Threads that read and decode; 0: chosen from the cores.")
    encode_threads: int = Field(0, ge=0, description="Threads that encode and write; 0: chosen from the cores.")
    png_level: int = Field(1, ge=0, le=9, description="PNG compression: 1 is fast, 9 is small.")

    # single requests
    database_url: str = Field("", description="sqlite:///file or postgresql://... for artworks. Default: <data>/depthline.db.")
    lease_seconds: float = Field(
        30.0,
        gt=0,
        description="A claim on an artwork or a chunk goes back when its worker or run sends no heartbeat for this long.",
    )
    max_attempts: int = Field(
        3, ge=1, description="An artwork or an image of a chunk whose worker or run died this often fails with worker_lost."
    )
    api_formats: list[str] = Field(
        default_factory=list, description='JSON, files that single requests get beside the usual ones: ["depth16.png"].'
    )
    keep_artworks_days: int = Field(
        90, ge=0, description="Artworks older than this are forgotten, with history and webhooks; their files stay. 0: never."
    )
    image_buckets: list[str] = Field(
        default_factory=list, description='JSON, buckets that requests may name: ["photos"], or ["s3://photos"].'
    )

    # the HTTP API
    api_host: str = Field("127.0.0.1", description="Address the API listens on; without api_keys only loopback is allowed.")
    api_port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    api_keys: SecretStr = Field(SecretStr(""), description="name:key pairs, by comma. One name may have several keys (rotation).")
    rate_limit: float = Field(
        50.0, ge=0, description="Requests a second per API key, in all API processes, bursts of four seconds' worth; 0: any."
    )
    wrong_keys: int = Field(
        10, ge=0, description="Wrong API keys a minute from one address (IPv6: /64) before it has to wait; 0: any number."
    )
    metrics_key: SecretStr = Field(
        SecretStr(""), description="Key that /metrics asks for, as `Authorization: Bearer KEY`. Default: none, /metrics is open."
    )
    docs: bool = Field(True, description="The API shows /docs and /openapi.json; false: both are a 404.")
    trusted_proxies: str = Field(
        "127.0.0.1,::1", description="Addresses and networks, by comma, whose X-Forwarded-For, -Proto and -Prefix count."
    )
    root_path: str = Field(
        "", description="Path under which a proxy has the API, such as /depth; X-Forwarded-Prefix of a trusted proxy goes before."
    )
    cors_origins: list[str] = Field(
        default_factory=list,
        description='JSON, origins whose pages may call the API in a browser: ["https://app.example"], or ["*"]. Default: none.',
    )
    request_seconds: float = Field(
        30.0, gt=0, description="Seconds that a request's headers, and then its body, have to arrive; else 408."
    )
    api_connections: int = Field(1000, ge=1, description="Connections at once; those beyond are answered with 503.")
    max_body_bytes: int = Field(
        1_572_864, ge=1024, description="A larger JSON body is refused with 413. It holds a data: URI, in base64 a third larger."
    )
    max_data_uri_bytes: int = Field(MEBI, ge=0, description="A request's data: URI may have so many bytes of data; 0: none.")
    upload_seconds: float = Field(600.0, gt=0, description="Seconds that an upload's body has to arrive; else 408.")
    presigned_seconds: int = Field(3600, ge=1, description="How long a presigned result URL is valid (s3 stores).")

    # webhooks
    webhooks_in_api: bool = Field(True, description="The API delivers webhooks; false: `depthline webhooks deliver` does.")
    webhook_schedule: list[float] = Field(
        default_factory=lambda: [5.0, 30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0],
        description="JSON, seconds between attempts (up to a fifth more, at random); when they are used up, delivery has failed.",
    )
    webhook_timeout: float = Field(15.0, gt=0, description="Seconds a receiver has to answer.")
    webhook_concurrency: int = Field(64, ge=1, description="Deliveries at once, in one process.")
    webhook_per_host: int = Field(4, ge=1, description="Deliveries at once to one host, in all processes.")
    webhook_disable_days: int = Field(
        5, ge=0, le=3650, description="An endpoint at which every attempt has failed for this many days is disabled. 0: never."
    )
    secret_key: SecretStr = Field(
        SecretStr(""), description="Fernet key that encrypts webhook secrets. Default: <data>/secret.key, made when first needed."
    )

    # the inbox
    inbox_url: str = Field("", description="Folder or s3 prefix of request files. Default: <data>/inbox.")
    inbox_settle_seconds: float = Field(10.0, ge=0, description="A file that is not valid JSON is left until it is this old.")

    # galleries
    gallery_link_seconds: int = Field(
        604_800,
        ge=0,
        le=604_800,
        description="How long Dagster's link to a gallery opens (s3 stores; a week at most). 0: no link.",
    )

    # workers of single requests
    worker_devices: list[str] = Field(
        default_factory=lambda: ["auto"],
        description='JSON, one worker runs for each: ["cuda:0", "cuda:1"]; "auto" is DEPTH_DEVICE.',
    )
    idle_timeout_seconds: float = Field(
        30.0, ge=0, description="A worker without warm models ends when nothing has come for this long."
    )
    max_worker_seconds: float = Field(1800.0, gt=0, description="A worker takes nothing new after this long; the next goes on.")
    worker_claims: int = Field(32, ge=1, description="Artworks that a worker processes at once; it downloads four times as many.")
    request_fetch_seconds: float = Field(
        60.0, gt=0, description="Seconds that the image of a single request has to arrive, in all."
    )
    model_memory_gib: float = Field(8.0, gt=0, description="Weights a worker keeps loaded; the least recently used go first.")

    warm_models: list[str] = Field(
        default_factory=list,
        description='JSON, models that a worker on each device keeps loaded, also while nothing comes: ["tiny", "v2/small"].',
    )

    @field_validator("root_path")
    @classmethod
    def _is_path_prefix(cls, value: str) -> str:
        return path_prefix(value)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        wrong = [origin for origin in value if origin != "*" and not re.fullmatch(_ORIGIN, origin)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no origin; write scheme and host in lower case, without a path: https://app.example"
            )
        return value

    @field_validator("checkpoints", "hub_revisions", "warm_models")
    @classmethod
    def _names_are_models(cls, value: dict[str, str] | list[str]) -> dict[str, str] | list[str]:
        unknown = [name for name in value if name not in catalog.BY_KEY]
        if unknown:
            raise ValueError(f"no model {', '.join(map(repr, unknown))}; there are: {', '.join(catalog.BY_KEY)}")
        return value

    @property
    def database_location(self) -> str:
        return self.database_url or f"sqlite:///{self.data / 'depthline.db'}"

    @property
    def inbox_location(self) -> str:
        return self.inbox_url or str(self.data / "inbox")

    @property
    def store_location(self) -> str:
        return self.store_url or str(self.data / "store")

    @property
    def manifests_location(self) -> str:
        return self.manifests_url or str(self.data / "manifests")

    @property
    def profiles_location(self) -> str:
        return self.profiles or str(self.data / "profiles.toml")

    @property
    def worker_idle_seconds(self) -> float:
        """After how many seconds without work a worker ends."""
        return math.inf if self.warm_models else self.idle_timeout_seconds

    @property
    def manifests_may_be_private(self) -> bool:
        return self.allow_private_hosts if self.manifest_private_hosts is None else self.manifest_private_hosts


def path_prefix(text: str) -> str:
    """A path before all paths of the API, without a slash at its end; empty for none. Raises ValueError for what is no path."""
    prefix = text.removesuffix("/")
    if prefix and not re.fullmatch(_PREFIX, prefix):
        raise ValueError(f"must be a path such as /depth, of letters, digits and . _ ~ - only, not {prefix!r}")
    if prefix.split("/")[1:2] in [[name] for name in _OWN_PATHS]:
        raise ValueError(f"must not begin as the API's own paths do, with /{', /'.join(_OWN_PATHS)}")
    return prefix


def load(**overrides: Any) -> Settings:
    """The settings as the environment has them now.

    Raises ConfigurationError naming each variable that is wrong.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        errors = "; ".join(f"{_variable(*e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise ConfigurationError(f"settings: {errors}") from None
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = _variable(field[1]) if field else str(error)
        raise ConfigurationError(f"settings: {name}: not valid JSON: {error.__cause__}") from None


def environment() -> tuple[object, ...]:
    """What `load` reads: equal for two calls between which neither variables nor the `.env` file have changed. For caches."""
    try:
        file = os.stat(str(Settings.model_config["env_file"]))
        version = (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)
    except OSError:
        version = None
    prefix = str(Settings.model_config["env_prefix"])
    return version, *sorted(each for each in os.environ.items() if each[0].upper().startswith(prefix))


def _variable(field: str | int = "", *inside: str | int) -> str:
    return f"DEPTH_{field}".upper() + "".join(f"[{key}]" for key in inside)
