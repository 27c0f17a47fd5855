"""The jobs: one thin file each; run them as `python -m jobs.NAME --help`."""
