"""Websockets and fan-out: how open sockets hear of what happened."""
