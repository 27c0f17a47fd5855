// A filtered vector search as anybody writes it: the npm package @lancedb/lancedb alone.
//
// node plain_client.mjs REQUEST.json -> JSON on standard output

import { readFileSync } from "node:fs";
import * as lancedb from "@lancedb/lancedb";

const request = JSON.parse(readFileSync(process.argv[2], "utf8"));
const database = await lancedb.connect(request.database);
const table = await database.openTable(request.table);
await table.checkout("live");
const schema = await table.schema();
const record = JSON.parse(schema.metadata.get("motif"));
const found = await table
  .vectorSearch(request.vector)
  .column("same")
  .distanceType("cosine")
  .where(request.where)
  .select(["creator_id", "_distance", "country", "oaar_vivid_pct"])
  .limit(request.k)
  .toArray();
console.log(
  JSON.stringify({
    rows: await table.countRows(),
    schema_version: record.schema_version,
    found: found.map((row) => row.toJSON()),
  }),
);
