"""Speed, kept out of the tests: `python -m bench`, or `make bench`. See docs/benchmarks.md."""
