"""Work on all cores, apart from Ray."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import torch


def cores() -> int:
    """Return how many this process may use."""
    return len(os.sched_getaffinity(0))


def pool() -> ProcessPoolExecutor:
    """Return as many processes as there are cores, each with one thread."""
    return ProcessPoolExecutor(
        cores(),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
