"""The command line: parse options, call one verb, print the result."""
