"""The demo's creators: illustrated images whose themes, and whose adjectives, are known."""
