"""The OpenAPI document's parts that ninja cannot know, because our inputs and payloads are msgspec structs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from consumers import rpc

from . import examples
from .backend import OPERATIONS as BACKEND_OPERATIONS
from .backend import BackendOperation
from .operations import OPERATIONS, Operation
from .push import PushKey
from .tokens import Refresh, TokenPair

_REF = "#/components/schemas/{name}"
PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; what clients act on."},
        "detail": {"type": "string", "description": "A sentence for people."},
    },
    "example": {
        "type": "urn:roost:problem:conversation_not_found",
        "title": "Not Found",
        "status": 404,
        "code": "conversation_not_found",
        "detail": "There is no such conversation.",
    },
}


def describe(operation: Operation) -> dict[str, Any]:
    """What ninja adds to an operation: parameters of the query, body, answers."""
    return _describe(operation, rpc.input_of(operation.method), "bearer")


def describe_backend(operation: BackendOperation) -> dict[str, Any]:
    """The same for one of the app's own backend."""
    return _describe(operation, operation.arguments, "api_key")


def _describe(operation: Operation | BackendOperation, arguments: type, security: str) -> dict[str, Any]:
    fields = [f for f in msgspec.structs.fields(arguments) if f"{{{f.name}}}" not in operation.path]
    extra: dict[str, Any] = {"responses": _responses(operation), "security": [{security: []}]}
    if operation.takes_body and fields:
        extra["requestBody"] = {
            "required": any(f.required for f in fields),
            "content": {"application/json": {"schema": _body(arguments, {f.name for f in fields})}},
        }
    elif fields:
        extra["parameters"] = [_query(arguments, f) for f in fields]
    return extra


def components() -> dict[str, Any]:
    """The schemas that operations refer to."""
    types = [op.returns for op in OPERATIONS if op.returns]
    types += [op.returns for op in BACKEND_OPERATIONS if op.returns]
    types += [rpc.input_of(op.method) for op in OPERATIONS] + [op.arguments for op in BACKEND_OPERATIONS]
    _, schemas = _schemas([*dict.fromkeys(types), Refresh, TokenPair, PushKey])
    return {"Problem": PROBLEM, **schemas}


def of_refresh() -> dict[str, Any]:
    """An operation without a method, because it comes before any token."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(name="Refresh")},
                    "example": {"refresh_token": "rt_…"},
                }
            },
        },
        "responses": {
            200: {
                "description": "The next pair",
                "content": {
                    "application/json": {
                        "schema": {"$ref": _REF.format(name="TokenPair")},
                        "example": {"access_token": "eyJ…", "refresh_token": "rt_…", "expires_in": 900},
                    }
                },
            },
            "default": _PROBLEM_ANSWER,
        },
    }


def of_push_key() -> dict[str, Any]:
    """An operation without a method, because it needs no token."""
    content = {
        "schema": {"$ref": _REF.format(name="PushKey")},
        "example": {"vapid_public_key": "BKVJ…"},
    }
    return {
        "responses": {
            200: {"description": "The key", "content": {"application/json": content}},
            "default": _PROBLEM_ANSWER,
        }
    }


_PROBLEM_ANSWER = {
    "description": "Refused",
    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
}


def _responses(operation: Operation | BackendOperation) -> dict[Any, Any]:
    if operation.returns is None:
        return {204: {"description": "Done"}, "default": _PROBLEM_ANSWER}
    answer = {
        "description": "Done",
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(name=operation.returns.__name__)},
                "example": examples.of_type(operation.returns),
            }
        },
    }
    return {operation.status: answer, "default": _PROBLEM_ANSWER}


def _body(arguments: type, names: set[str]) -> dict[str, Any]:
    """The schema of what is left for the body when the path has taken its parts."""
    whole = _schemas([arguments])[1][arguments.__name__]
    properties = {name: schema for name, schema in whole["properties"].items() if name in names}
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in whole.get("required", ()) if name in names],
        "example": examples.of_fields(list(properties)),
    }


def _query(arguments: type, field: Any) -> dict[str, Any]:
    schema = _schemas([arguments])[1][arguments.__name__]["properties"][field.name]
    parameter = {"in": "query", "name": field.name, "required": field.required, "schema": schema}
    example = examples.of_fields([field.name])
    return {**parameter, "example": example[field.name]} if example else parameter


def _schemas(types: Iterable[type]) -> tuple[Any, dict[str, Any]]:
    return msgspec.json.schema_components(types, schema_hook=_hook, ref_template=_REF)


def _hook(type: type) -> dict[str, Any]:
    if type is msgspec.Raw:
        return {"description": "Any JSON."}
    raise NotImplementedError
