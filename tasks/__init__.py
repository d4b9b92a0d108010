"""How each step of a night runs: retries, timeouts and names around what `nightloom` does."""
