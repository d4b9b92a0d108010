"""The twin: a proxy before Milvus 2.3.5 or Milvus Lite that answers as a newer Milvus does, by rules that cite it."""

from tests.twin.twin import VERSIONS, Twin

__all__ = ["VERSIONS", "Twin"]
