"""The parts of `benchmarks/encode.py`: each measures one group of bars."""
