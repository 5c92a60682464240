"""Whole stories through real sockets and real processes."""
