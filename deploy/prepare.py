"""Makes what the services expect to be there: buckets, profiles.toml in its bucket, the tables of both databases.

The service `prepare` of compose.yaml runs it before all others. What is there already stays as it is; tables of an older version
are brought up to date.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from dagster import DagsterInstance

from depth_core import settings as settings_module
from depth_core.errors import DepthlineError
from depth_core.serving.artworks.store import open_store
from depth_core.storage import Store

PROFILES = Path(__file__).parent / "data" / "profiles.toml"


def main() -> int:
    try:
        settings = settings_module.load()
        urls = (settings.store_location, settings.manifests_location, settings.inbox_location, settings.profiles_location)
        named = {urlsplit(url).netloc for url in urls if url.startswith("s3://")}
        for bucket in sorted({*named, os.environ["DAGSTER_LOGS_BUCKET"]}):
            make_bucket(bucket)
        profiles = Store(settings.profiles_location, settings.source_options or settings.store_options)
        if profiles.read_or_none("") is None:
            profiles.write("", PROFILES.read_bytes())
            say(f"{settings.profiles_location}: the shipped profiles.toml")
        open_store(settings).close()
        say("the database of single requests is ready")
    except (DepthlineError, BotoCoreError, ClientError) as error:
        say(str(error))
        return 1
    with DagsterInstance.get() as instance:
        instance.upgrade(say)
    say("Dagster's database is ready")
    return 0


def make_bucket(name: str) -> None:
    """Raises ClientError when the bucket is not there and cannot be made."""
    s3 = boto3.client("s3")
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        region = s3.meta.region_name
        where = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=name, **where)
        say(f"s3://{name}: made")


def say(line: str) -> None:
    print(f"prepare: {line}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
