"""What benchmarks.train measures, a file per part."""
