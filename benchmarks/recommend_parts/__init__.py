"""Parts of benchmarks.recommend."""
