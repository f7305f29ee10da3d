"""The feature loss on several layers: the weighted sum of cosine losses, and nothing changed where none are named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fusiondistill import build_model, fit, load_images
from fusiondistill.config_file import ConfigError, parse
from fusiondistill.loss import FOR_DIGEST, Loss
from fusiondistill.losses import LOSSES, Outputs
from fusiondistill.losses.feature import cosine_feature_loss
from fusiondistill.models.features import LayerTaps
from fusiondistill.objectives import Objective

WEIGHTS = {"stage1": 0.25, "stage2": 0.5, "stage3": 1.0}


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return build_model("cifar_resnet8", 5).train(), build_model("cifar_resnet8", 5).eval()


def stages_by_hand(network: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of the three stages, by running the network's parts one after the other."""
    x = functional.relu(network.norm(network.conv(x)))
    found = []
    for stage in (network.stage1, network.stage2, network.stage3):
        x = stage(x)
        found.append(x)
    return found


def test_layers_are_summed_with_their_weights_as_in_the_released_code() -> None:
    student, teacher = pair()
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6) % 5
    halves = [slice(0, 2), slice(2, 6)]
    taps, teacher_taps = LayerTaps(student, [*WEIGHTS]), LayerTaps(teacher, [*WEIGHTS])
    logits, features = student(images, features=True)
    layers = taps.take()
    outputs = []
    for half in halves:
        outputs.append(Outputs(*teacher(images[half], features=True), teacher_taps.take()))
    objective = Objective({"ce": 0, "feature": {"weight": 2.0, "layers": WEIGHTS}})
    total, terms = objective.loss(logits, features, labels, halves, outputs, layers)
    expected = 0.0
    ours = stages_by_hand(student, images)
    with torch.no_grad():
        for half in halves:
            theirs = stages_by_hand(teacher, images[half])
            for weight, s, t in zip(WEIGHTS.values(), ours, theirs, strict=True):
                flat = functional.cosine_embedding_loss(s[half].flatten(1), t.flatten(1), torch.ones(len(t)))
                expected += weight * float(flat)
    assert terms["feature"].item() == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(2 * expected, rel=1e-5)
    total.backward()
    assert student.conv.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    taps.remove()
    student(images)
    with pytest.raises(ValueError, match="gives no feature map"):
        taps.take()


def test_stage_3_alone_is_the_default_to_the_bit() -> None:
    images = load_images("digits", "train").take(20)
    teacher = build_model("cifar_resnet8", 10)
    settings: dict[str, Any] = {"model": "cifar_resnet8", "degradations": ["blur"], "teachers": teacher, "seed": 3,
                                "validation": None}  # fmt: skip
    losses: list[Any] = [1.0, {"weight": 1.0, "layers": None}, {"weight": 1.0, "layers": {"stage1": 0, "stage3": 1}},
                         {"weight": 1.0, "layers": {"stage1": 1}}]  # fmt: skip
    states = []
    for loss in losses:
        fitted = fit({"epochs": 1, "batch_size": 10, "loss": {"feature": loss}}, images, **settings)
        states.append(fitted.model.state_dict())
        assert not [hook for module in fitted.model.modules() for hook in module._forward_hooks]
    same = [all(torch.equal(state[key], states[0][key]) for key in state) for state in states]
    assert same == [True, True, True, False]


def test_a_loss_without_layers_is_written_and_digested_as_before() -> None:
    plain = Loss.model_validate({"feature": 1})
    assert plain == Loss.model_validate({"feature": {"weight": 1, "layers": None}})
    for context in (None, FOR_DIGEST):
        assert plain.model_dump(mode="json", context=context)["feature"] == {"weight": 1.0}
    assert plain.flat()["feature.layers"] is None
    given = ([("stage3", 1), ("stage1", 0.5)], [("stage1", 0.5), ("stage2", 0), ("stage3", 1.0)])
    one, other = (Loss.model_validate({"feature": {"weight": 1, "layers": dict(items)}}) for items in given)
    assert one == other and hash(one) == hash(other) and one.layers == ("stage1", "stage3") and plain.layers == ()
    assert json.loads(one.model_dump_json(context=FOR_DIGEST))["feature"]["layers"] == {"stage1": 0.5, "stage3": 1.0}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("{stage1: -1}", "layers.stage1: input should be greater than or equal to 0"),
        ("{stage1: 0}", "layers: give a layer a positive weight, like {stage1: 0.5, stage3: 1}"),
        ("{}", "layers: give a layer a positive weight"),
        ("{stage1: .nan}", "layers.stage1"),
        ("[stage1]", "layers: input should be a mapping"),
    ],
)
def test_bad_weights_are_told_with_their_line(layers: str, said: str) -> None:
    with pytest.raises(ConfigError, match="line 2: ") as caught:
        parse(f"experiment: x\nexpert: {{loss: {{feature: {{weight: 1, layers: {layers}}}}}}}\n")
    assert said in str(caught.value)


def test_layers_that_a_network_lacks_are_named_with_candidates() -> None:
    start = "experiment: x\nmodel: {name: resnet18}\nexpert: {loss: {feature: {weight: 1, layers: {layer2: 1, "
    parse(start + "layer4.1: 0.5}}}}\n")
    with pytest.raises(
        ConfigError, match=r"line 3: expert\.loss\.feature\.layers: resnet18: .*no layer 'layr4'; .*layer4"
    ):
        parse(start + "layr4: 0.5}}}}\n")
    parse(start + "layr4: 0.5}}}}\nmethods: [base]\n")  # not needed, and so not looked at
    with pytest.raises(ConfigError, match=r"--set: fusiondistill\.loss\.feature\.layers: cifar_resnet56: .*stage3"):
        parse("experiment: x\n", overrides=["fusiondistill.loss.feature.layers={stage4: 1}"])


def test_a_plugins_term_may_ask_for_layers() -> None:
    @LOSSES.register("hint", needs="features")
    def hint(student: Outputs, teacher: Outputs, labels: torch.Tensor, *, layers: dict[str, float]) -> torch.Tensor:
        "Squared differences by layer."
        assert student.layers and teacher.layers
        return torch.stack(
            [w * (student.layers[k] - teacher.layers[k]).square().mean() for k, w in layers.items()]
        ).sum()

    images, teacher = load_images("digits", "train").take(40), build_model("cifar_resnet8", 10)
    loss = {"hint": {"weight": 1.0, "layers": {"stage2": 1.0}}}
    recipe = {"epochs": 1, "batch_size": 20, "loss": loss}
    fitted = fit(recipe, images, model="cifar_resnet8", degradations=["blur"], teachers=teacher)
    assert np.isfinite(fitted.rows[0]["hint"]) and fitted.rows[0]["hint"] > 0


def test_the_shapes_of_layers_must_fit() -> None:
    with pytest.raises(ValueError, match="differ"):
        cosine_feature_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    term = LOSSES["feature"].function
    with pytest.raises(ValueError, match="needs the output of the layer 'stage1'"):
        outputs = Outputs(None, torch.zeros(2, 3), {})
        term(outputs, outputs, torch.zeros(2), layers={"stage1": 1.0})
