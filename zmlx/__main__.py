"""`python -m zmlx`: hands over to the command line in zmlx.cli."""

from zmlx.cli import app

app(prog_name="zmlx")
