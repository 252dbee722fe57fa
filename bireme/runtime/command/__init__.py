"""The verbs of the OCI command line, one module each with `run(options) -> exit code`; main.py finds them by name."""
