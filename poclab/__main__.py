"""`python -m poclab`."""

from poclab.cli import main

main(prog_name="poclab")
