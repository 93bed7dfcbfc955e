"""The load generator: requests to any server with the OpenAI interface, timed token by token."""
