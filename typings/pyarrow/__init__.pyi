# pyarrow is compiled and ships no types; pyarrow-stubs refuses calls that pyarrow takes (strings
# for scalars, files for sources). So to the type checker all of it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
