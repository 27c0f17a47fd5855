"""The one thin layer that knows Ray: sessions, Ray Data pipelines, Ray Train."""

import os

# Before Ray is imported: a thread of a pipeline that was given up would otherwise start another
# Ray, or join whichever it finds, while the process exits.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
