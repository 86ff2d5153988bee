"""`python -m srnlib`."""

from srnlib.cli import app

app(prog_name="python -m srnlib")
