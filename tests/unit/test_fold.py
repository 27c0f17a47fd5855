"""Folding batch normalisation changes the speed, not the function."""

import copy

import open_clip
import pytest
import timm
import torch

from motif.encoder.fold import fold_batch_norms


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Give every normalisation statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: timm.create_model("tf_efficientnet_lite2", num_classes=0), 64),
        (lambda: timm.create_model("resnet18", num_classes=0), 64),
        (lambda: open_clip.create_model("RN50").visual, 224),
    ],
    ids=["efficientnet-lite2", "timm-resnet18", "open_clip-RN50"],
)
def test_the_function_stays_and_no_normalisation_is_left(make, size):
    torch.manual_seed(0)
    model = randomised(make())
    folded = copy.deepcopy(model)
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    images = torch.randn(3, 3, size, size)
    assert fold_batch_norms(folded, images[:1]) == norms > 10
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    expected = model(images)
    torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-4)
    folded.to(memory_format=torch.channels_last)
    torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-4)


def test_a_convolution_that_is_used_twice_is_left_alone():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.first, self.second = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)

        def forward(self, x):
            return self.first(self.conv(x)) + self.second(self.conv(x))

    model = randomised(Shared())
    images = torch.randn(2, 3, 4, 4)
    expected = model(images)
    assert fold_batch_norms(model, images) == 0
    assert torch.equal(model(images), expected)


def test_a_model_without_any_is_left_alone():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU()).eval()
    assert fold_batch_norms(model, torch.zeros(1, 3, 2, 2)) == 0
