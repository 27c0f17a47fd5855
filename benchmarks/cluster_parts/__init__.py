"""Parts of benchmarks.cluster."""
