"""Servers over an index."""

__all__: list[str] = []
