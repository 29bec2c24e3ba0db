"""`python -m service` is the `firstlight` command."""

from service.cli.main import app

app()
