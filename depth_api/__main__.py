"""`python -m depth_api`: the HTTP API on uvicorn, as the settings have it."""

import argparse
import sys

import uvicorn

from depth_api import connections
from depth_api.app import create_app
from depth_api.auth import check_bind, read_keys
from depth_api.logs import configure_logs
from depth_core import ports
from depth_core import settings as settings_module
from depth_core.errors import ConfigurationError
from depth_core.serving.artworks.store import open_store


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m depth_api",
        description="The HTTP API. Settings say what it does: DEPTH_API_HOST, DEPTH_API_PORT, DEPTH_API_KEYS and the others of "
        "docs/operations.md.",
    ).parse_args()
    try:
        settings = settings_module.load()
        check_bind(settings.api_host, read_keys(settings))
        if ports.is_taken(settings.api_host, settings.api_port):
            raise ConfigurationError(
                f"port {settings.api_port} of {settings.api_host} is taken: end what listens there, or set another DEPTH_API_PORT"
            )
        open_store(settings).close()  # migrates the database, and reports its errors in one line
        app = create_app(settings)
    except ConfigurationError as error:
        sys.exit(f"depthline: {error}")
    configure_logs()
    uvicorn.Server(connections.configured(app, settings)).run()


if __name__ == "__main__":
    main()
