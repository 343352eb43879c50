"""Encoders, and the embedding spaces that group them."""
