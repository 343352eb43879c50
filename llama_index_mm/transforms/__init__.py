"""LlamaIndex transforms for media: spans, transcripts, labels, views."""
