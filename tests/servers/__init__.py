"""Real servers for the tests, from what pip installs; each is a context manager."""
