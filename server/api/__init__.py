"""HTTP under ``/v1``: the same operations as the websocket's methods, with OpenAPI and problem details."""
