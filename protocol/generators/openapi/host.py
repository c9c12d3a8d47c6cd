"""What the web sample offers beside the contract's actions."""

from typing import Any

_PROBLEM = {"default": {"$ref": "#/components/responses/Problem"}}


def _answer(description: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}


_HEALTH = {"$ref": "#/components/schemas/Health"}

PATHS: dict[str, dict[str, Any]] = {
    "/api/events": {
        "get": {
            "operationId": "events",
            "tags": ["events"],
            "summary": "Events as they come (server-sent events).",
            "description": "Each has the event's name, its data as JSON on one line, and a number of this stream as `id`, in "
            "which a gap is what this reader lost by falling behind. A comment comes every 15 s. Of a stream that "
            "breaks off nothing is sent again: ask for the state anew.",
            "parameters": [
                {
                    "name": "event",
                    "in": "query",
                    "required": False,
                    "description": "Which events; none for all that tell of what happened: `memory.figures` has to be named.",
                    "schema": {"type": "array", "items": {"type": "string", "enum": []}},
                },
            ],
            "responses": {"200": _answer("Until the reader leaves.", "text/event-stream", {"type": "string"})}
            | _PROBLEM,
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "tags": ["monitoring"],
            "summary": "All figures for a collector.",
            "responses": {
                "200": _answer("OpenMetrics 1.0.", "application/openmetrics-text", {"type": "string"})
            }
            | _PROBLEM,
        }
    },
    "/monitoring/memory": {
        "get": {
            "operationId": "monitoring",
            "tags": ["monitoring"],
            "summary": "The worker, the memory of each device, its pressure and the models, in one answer.",
            "responses": {
                "200": _answer(
                    "At one moment.", "application/json", {"$ref": "#/components/schemas/Monitoring"}
                )
            }
            | _PROBLEM,
        }
    },
    "/health": {
        "get": {
            "operationId": "health",
            "tags": ["monitoring"],
            "summary": "Health by part: the worker, its devices, their pressure.",
            "responses": {
                "200": _answer("Healthy, or degraded: requests are answered.", "application/json", _HEALTH),
                "503": _answer("Unhealthy.", "application/json", _HEALTH),
            },
        }
    },
    "/health/live": {
        "get": {
            "operationId": "live",
            "tags": ["monitoring"],
            "summary": "Whether the host itself answers, whatever its worker does.",
            "responses": {"200": _answer("It does.", "application/json", _HEALTH)},
        }
    },
}

_STATUS = {"type": "string", "enum": ["healthy", "degraded", "unhealthy"]}

SCHEMAS: dict[str, dict[str, Any]] = {
    "Problem": {
        "type": "object",
        "description": "Problem details (RFC 9457). What the worker refused has its code, and the figures that belong to it.",
        "required": ["status", "title"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "description": "As in the protocol: `out_of_memory`."},
            "executed": {"type": "string", "enum": ["no", "yes", "unknown"]},
            "retryable": {"type": "boolean"},
            "details": {"type": "object"},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status", "parts"],
        "properties": {
            "status": _STATUS,
            "parts": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["status"],
                    "properties": {
                        "status": _STATUS,
                        "description": {"type": ["string", "null"]},
                        "data": {"type": "object"},
                    },
                },
            },
        },
    },
    "Monitoring": {
        "type": "object",
        "required": ["worker", "memory", "pressure", "models"],
        "properties": {
            "worker": {"type": "object"},
            "memory": {"$ref": "#/components/schemas/GetStatusResult"},
            "pressure": {"$ref": "#/components/schemas/GetPressureResult"},
            "models": {"$ref": "#/components/schemas/GetModelStatusResult"},
        },
    },
}
