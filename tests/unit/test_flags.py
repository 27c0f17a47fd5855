"""Flags that make no sense are refused before anything is read or written."""

import pytest

from jobs import encode_images, evaluate
from motif.errors import InputError


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("batch_size", -4),
        ("in_flight", 0),
        ("stall_seconds", 0.0),
        ("max_removed_fraction", 2.0),
        ("max_failed_fraction", -0.1),
        ("max_failed_fraction", float("nan")),
        ("max_failed_fraction", 1.5),
    ],
)
def test_encode_images(tmp_path, flag, value):
    output = tmp_path / "out"
    config = encode_images.Config(images="/nowhere", output=str(output), **{flag: value})
    with pytest.raises(InputError, match=f"--{flag.replace('_', '-')} {value}"):
        encode_images.main(config)
    assert not output.exists()


def test_evaluate(tmp_path):
    config = evaluate.Config(embeddings="/nowhere", model="/nowhere", output=str(tmp_path), seed=-1)
    with pytest.raises(InputError, match="--seed -1"):
        evaluate.main(config)


def test_a_class_of_failures_that_does_not_exist_is_refused(tmp_path):
    config = encode_images.Config(
        images="/nowhere", output=str(tmp_path / "out"), retry_failed=("timout",)
    )
    with pytest.raises(InputError, match=r"--retry-failed timout: .*throttled, timeout"):
        encode_images.main(config)
