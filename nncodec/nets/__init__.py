"""Torch modules of the codec: no files, no bytes."""
