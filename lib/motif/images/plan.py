"""What an encoding run will do: which images, in which buckets, into which schema."""

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from motif import schemas
from motif.artefacts import embeddings
from motif.errors import InputError, TooManyFailures
from motif.images.decode import DecodeError, decode
from motif.images.fetch import FetchError, fetch_all
from motif.images.manifest import Manifest, bucket_of
from motif.images.preprocess import to_pixels
from motif.space import Space

log = logging.getLogger(__name__)

ROWS_PER_BUCKET = 20_000
SAMPLE_IMAGES = 32


@dataclass(frozen=True)
class Plan:
    """An encoding run, decided before its first image is fetched."""

    images: pa.Table
    """IMAGES, carried columns and `bucket`, sorted by bucket."""
    rejected: pa.Table
    duplicates: int
    rows: int
    space: Space
    schema: pa.Schema
    """Of EMBEDDINGS."""
    buckets: int

    @classmethod
    def make(
        cls, manifest: Manifest, space: Space, *, features_dim: int | None, buckets: int
    ) -> "Plan":
        """Lay a manifest out over buckets; 0 buckets takes one per 20,000 images, at least 4.

        Raises:
            InputError: The manifest has no usable row, or the number of buckets makes no sense.
        """
        if not manifest.images.num_rows:
            raise InputError("no row of the manifest has both a creator_id and a uri")
        if not 0 <= buckets <= 100_000:
            raise InputError(f"--buckets {buckets}: expected 1 to 100000, or 0 to choose")
        buckets = buckets or max(4, -(-manifest.images.num_rows // ROWS_PER_BUCKET))
        bucket = [bucket_of(c, buckets) for c in manifest.images["creator_id"].to_pylist()]
        images = manifest.images.append_column("bucket", pa.array(bucket, pa.int32()))
        return cls(
            images=images.sort_by([("bucket", "ascending"), ("creator_id", "ascending")]),
            rejected=manifest.rejected,
            duplicates=manifest.duplicates,
            rows=manifest.rows,
            space=space,
            schema=schemas.embeddings(
                space.dim, features_dim=features_dim, carried=manifest.carried
            ),
            buckets=buckets,
        )

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a run that was cut off to be continued."""
        digest = hashlib.sha256()
        # Row order does not matter to the result, but a stable one makes the hash stable.
        for row in self.images.sort_by("image_id").to_batches(max_chunksize=4096):
            digest.update(repr(row.to_pydict()).encode())
        return {
            "images_sha256": digest.hexdigest(),
            "space": self.space.fingerprint,
            "columns": self.schema.names,
            "buckets": self.buckets,
        }

    def pending(self, staging: str) -> pa.Table:
        """Return the images that no earlier attempt has encoded; failures are tried again."""
        done: set[str] = set()
        for bucket in range(self.buckets):
            done |= embeddings.staged_ids(staging, bucket)
        ids = pa.array(sorted(done), pa.string())
        return self.images.filter(pc.invert(pc.is_in(self.images["image_id"], ids)))

    def require_few_failures(self, failed: int, limit: float, staging: str) -> None:
        """End the run when the manifest or the storage, not an image, is what is broken.

        Raises:
            TooManyFailures: More than `limit` of the rows failed.
        """
        failed += self.rejected.num_rows
        total = self.images.num_rows + self.rejected.num_rows
        if failed > limit * total:
            raise TooManyFailures(
                f"{failed:,} of {total:,} images failed, more than --max-failed-fraction {limit:g}"
                f" ({self._commonest(staging)}); EMBEDDINGS are not finished: mend the input"
                " and run the same command again, or allow more failures"
            )

    def _commonest(self, staging: str) -> str:
        classes: list[str] = [*self.rejected["error_class"].to_pylist()]
        example = ""
        for row in embeddings.staged_failures(staging, self.buckets):
            classes.append(row["error_class"])
            example = f"{row['uri']}: {row['message']}"
        if not classes:
            return "see the log"
        common = max(set(classes), key=classes.count)
        return f"{classes.count(common):,} of class {common}" + (
            f", such as {example}" if example else ""
        )

    def estimate(self, encoder: Any) -> dict[str, Any]:
        """Time a sample in this process, without Ray.

        Args:
            encoder: The `Encoder`, loaded.

        Returns:
            A record for `--dry-run`: counts, bytes, rates, seconds in all.
        """
        step = max(1, self.images.num_rows // SAMPLE_IMAGES)
        sample = self.images["uri"].to_pylist()[::step][:SAMPLE_IMAGES]
        start = time.perf_counter()
        fetched = fetch_all(sample)
        pixels, failed = [], 0
        for data in fetched:
            try:
                if isinstance(data, FetchError):
                    raise DecodeError(data.error_class, data.message)
                pixels.append(to_pixels(decode(data).image, self.space.preprocess))
            except DecodeError:
                failed += 1
        decode_seconds = (time.perf_counter() - start) / len(sample)
        encode_seconds = 0.0
        if pixels:
            batch = np.stack(pixels)
            encoder.encode_images(batch)  # the first call is slower
            start = time.perf_counter()
            encoder.encode_images(batch)
            encode_seconds = (time.perf_counter() - start) / len(pixels)
        vectors = self.schema.field("embedding").type.list_size
        return {
            "dry_run": True,
            "images": self.images.num_rows,
            "rejected_rows": self.rejected.num_rows,
            "duplicate_rows": self.duplicates,
            "creators": pc.count_distinct(self.images["creator_id"]).as_py(),
            "buckets": self.buckets,
            "space": self.space.to_json(),
            "sampled_images": len(sample),
            "sampled_failures": failed,
            "fetch_and_decode_seconds_per_image": round(decode_seconds, 5),
            "encode_seconds_per_image": round(encode_seconds, 5),
            "estimated_seconds_on_one_machine": round(
                self.images.num_rows * (decode_seconds + encode_seconds), 1
            ),
            "estimated_output_bytes": self.images.num_rows * (vectors * 4 + 300),
        }
