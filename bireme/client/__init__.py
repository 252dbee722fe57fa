"""The engine's HTTP API as a client sees it: a connection, an HTTP/1.1 codec, and the calls the command line makes."""
