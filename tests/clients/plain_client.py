"""A filtered vector search as anybody writes it: the lancedb client alone, without motif.

python plain_client.py REQUEST.json -> JSON on standard output
"""

import importlib.util
import json
import sys
from pathlib import Path

import lancedb

request = json.loads(Path(sys.argv[1]).read_text())
table = lancedb.connect(request["database"]).open_table(request["table"])
table.checkout("live")
record = json.loads(table.schema.metadata[b"motif"])
found = (
    table.search(request["vector"], vector_column_name="same")
    .distance_type("cosine")
    .where(request["where"])
    .select(["creator_id", "_distance", "country", "oaar_vivid_pct"])
    .limit(request["k"])
    .to_list()
)
answer = {
    "has_motif": importlib.util.find_spec("motif") is not None,
    "rows": table.count_rows(),
    "schema_version": record["schema_version"],
    "found": found,
}
sys.stdout.write(json.dumps(answer))
