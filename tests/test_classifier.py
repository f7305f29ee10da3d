import doctest

import numpy as np
import pytest
import torch
from torch import nn

from fusiondistill.models import Ensemble, ImageClassifier, build_model, classifier


def test_classifier_normalises_as_numpy_does() -> None:
    network = build_model("cifar_resnet8", 3).eval()
    mean, std = (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    normalised = (images.numpy() - np.array(mean).reshape(3, 1, 1)) / np.array(std).reshape(3, 1, 1)
    model = ImageClassifier(network, mean, std, ["a", "b", "c"]).eval()
    with torch.no_grad():
        expected = network.forward_features(torch.from_numpy(normalised).float())
        for got, want in zip(model.forward_features(images), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(images), model.forward_features(images)[0])
    assert model.classes == ("a", "b", "c")


def test_classifier_refuses_wrong_input() -> None:
    network = build_model("cifar_resnet8", 3)
    with pytest.raises(TypeError, match="uint8"):
        ImageClassifier(network, (0, 0, 0), (1, 1, 1), "abc")(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="above 0"):
        ImageClassifier(network, (0, 0, 0), (1, 0, 1), "abc")
    with pytest.raises(ValueError, match="three"):
        ImageClassifier(network, (0,), (1,), "abc")


class Says(nn.Module):
    """Answers with fixed logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("logits")[: len(images)]


def vote(logits: list[list[float]]) -> int:
    """METHOD's vote on one image, from the logits of each model."""
    choices = [row.index(max(row)) for row in logits]
    most = max(choices.count(c) for c in choices)
    winners = {c for c in choices if choices.count(c) == most}
    if len(winners) == 1:
        return winners.pop()
    summed = [sum(column) for column in zip(*logits, strict=True)]
    return summed.index(max(summed))


@pytest.mark.parametrize("models", [1, 2, 3, 4, 7])
def test_ensemble_votes_like_a_plain_loop(models: int) -> None:
    generator = torch.Generator().manual_seed(models)
    logits = torch.randn(models, 500, 4, generator=generator)
    scores = Ensemble([Says(one) for one in logits])(torch.zeros(500, 3, 2, 2, dtype=torch.uint8))
    expected = [vote(image) for image in logits.double().transpose(0, 1).tolist()]
    assert scores.argmax(1).tolist() == expected


def test_a_class_without_a_vote_may_win_a_tie_and_a_majority_beats_large_logits() -> None:
    tie = torch.tensor([[5.0, 0, 4], [0, 5, 4]])[:, None]
    assert Ensemble([Says(one) for one in tie])(torch.zeros(1)).argmax().item() == 2
    majority = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 99, 0]])[:, None]
    assert Ensemble([Says(one) for one in majority])(torch.zeros(1)).tolist() == [[2, 1, 0]]


def test_ensemble_reads_nothing_back_and_checks_its_models() -> None:
    scores = Ensemble([Says(torch.zeros(6, 4, device="meta"))] * 2)(torch.zeros(6, device="meta"))
    assert scores.shape == (6, 4) and scores.device.type == "meta"
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
    network = build_model("cifar_resnet8", 2)
    with pytest.raises(ValueError, match="same classes"):
        Ensemble([ImageClassifier(network, (0, 0, 0), (1, 1, 1), names) for names in ("ab", "ba")])


def test_examples_run() -> None:
    tried = doctest.testmod(classifier, extraglobs={"build_model": build_model})
    assert tried.attempted > 0 and tried.failed == 0
