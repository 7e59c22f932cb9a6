"""`python -m depth_api`: the HTTP API on uvicorn, as the settings have it."""

import argparse
import sys
from contextlib import suppress
from importlib.metadata import version

import uvicorn

from depth_api import connections
from depth_api.app import create_app
from depth_api.auth import check_bind, read_keys
from depth_api.logs import configure_logs, log
from depth_core import ports
from depth_core import settings as settings_module
from depth_core.errors import ConfigurationError
from depth_core.serving.artworks.store import open_store


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m depth_api",
        description="The HTTP API. Settings say what it does: DEPTH_API_HOST, DEPTH_API_PORT, DEPTH_API_KEYS and the others of "
        "docs/operations.md.",
    )
    parser.add_argument("--version", action="version", version=f"depthline {version('depthline')}")
    parser.parse_args()
    try:
        settings = settings_module.load()
        check_bind(settings.api_host, read_keys(settings))
        # Opened before the database is migrated: an API that runs here already must not get a database that it does not know.
        with ports.Place(settings.api_host, settings.api_port, "DEPTH_API_HOST", "DEPTH_API_PORT").listening() as listeners:
            open_store(settings).close()  # migrates the database, and reports its errors in one line
            app = create_app(settings)
            configure_logs()
            addresses = [f"{host}:{port}" for host, port, *_ in (each.getsockname() for each in listeners)]
            log.info("listening", addresses=", ".join(addresses))
            with suppress(KeyboardInterrupt):  # the server has ended in good order, and raises the signal again
                uvicorn.Server(connections.configured(app, settings)).run(listeners)
    except ConfigurationError as error:
        sys.exit(f"depthline: {error}")


if __name__ == "__main__":
    main()
