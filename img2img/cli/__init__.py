"""The command line: it parses, calls the functions a notebook would call, and prints."""
