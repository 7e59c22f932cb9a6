"""HEAD wherever GET is, as RFC 9110 has it and monitors ask."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute


def answer_head(router: APIRouter) -> APIRouter:
    """Adds HEAD to every GET of a router, and returns it. The server leaves the body out; the OpenAPI document has GET alone."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(
                route.path.removeprefix(router.prefix),
                route.endpoint,
                methods=["HEAD"],
                response_model=route.response_model,
                response_model_exclude_none=route.response_model_exclude_none,
                response_class=route.response_class,
                include_in_schema=False,
            )
    return router
