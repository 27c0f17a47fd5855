"""What benchmarks.publish and benchmarks.query measure, a file per part."""
