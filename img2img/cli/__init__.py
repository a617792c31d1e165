"""The command line: parses, calls what a notebook calls, and prints."""
