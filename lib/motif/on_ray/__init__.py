"""The one thin layer that knows Ray: sessions, Ray Data pipelines, Ray Train."""
