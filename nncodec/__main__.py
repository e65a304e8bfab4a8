"""``python -m nncodec``."""

from nncodec.cli import main

main()
