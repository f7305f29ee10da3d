"""What a network is trained for: cross-entropy, a cosine loss on features, softened logits, and their weighted sum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

# (logits [B_d, C], feature map [B_d, ...]) of one degradation's teacher; None stands for what the objective ignores.
TeacherOutput = tuple[torch.Tensor | None, torch.Tensor | None]


def cosine_feature_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over images of 1 - cos(student feature, teacher feature), each image's feature map taken as one vector.

    Args:
        student: float [B, ...], any precision; gradients flow into it.
        teacher: float, the same shape; no gradient flows into it.

    Returns:
        0-d float32 tensor in [0, 2], computed in float32 also under autocast. An all-zero feature counts as cosine 0.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> cosine_feature_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(1.)
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student feature {tuple(student.shape)} and teacher feature {tuple(teacher.shape)} differ")
    cosine = F.cosine_similarity(student.float().flatten(1), teacher.detach().float().flatten(1), dim=1)
    return (1 - cosine).mean()


def softened_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Hinton's distillation loss: T^2 * KL(teacher || student) of the softmaxes at temperature T, batch mean.

    The factor T^2 keeps the size of the gradient comparable between temperatures (arXiv:1503.02531, section 2).

    Args:
        student_logits: float [B, C], any precision; gradients flow into it.
        teacher_logits: float [B, C]; no gradient flows into it.
        temperature: above 0; larger is softer.

    Returns:
        0-d float32 tensor, >= 0, in nats times T^2, computed in float32 also under autocast.

    Raises:
        ValueError: the shapes differ (`F.kl_div` would broadcast them in silence).

    Example:
        >>> softened_kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=4.0)
        tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)}"
        raise ValueError(f"student logits {shapes} differ")
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Objective:
    """`ce * CE + feature * sum_d cos_d + kd * sum_d KL_d`, the loss of every trained row of the table.

    CE is the mean over all images of the step; the feature and KD terms are batch means per degradation d, summed
    over degradations (METHOD, Objectives). An expert has one degradation: `Objective(ce=1, feature=1)`; the published
    distillation is `Objective(ce=0.1, feature=1)` over four. A term of weight 0 is not computed.

    Attributes:
        ce: weight of the cross-entropy, >= 0.
        feature: weight of `cosine_feature_loss`, >= 0.
        kd: weight of `softened_kl`, >= 0.
        temperature: of `softened_kl`, > 0.

    Raises:
        ValueError: a weight is negative or not finite, all weights are 0, or the temperature is not positive.
    """

    ce: float = 1.0
    feature: float = 0.0
    kd: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = float(getattr(self, field.name))
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{field.name} of an objective must be finite and not negative, got {value}")
            object.__setattr__(self, field.name, value)  # an int or a numpy scalar becomes a plain float
        if self.temperature == 0:
            raise ValueError("temperature of an objective must be above 0")
        if self.ce == self.feature == self.kd == 0:
            raise ValueError("all weights of the objective are 0: there is nothing to train for")

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's outputs are used at all."""
        return self.needs_features or self.kd > 0

    @property
    def needs_features(self) -> bool:
        """Whether feature maps, the student's and the teachers', are used."""
        return self.feature > 0

    def loss(
        self,
        logits: torch.Tensor,
        features: torch.Tensor | None,
        labels: torch.Tensor,
        slices: Sequence[slice],
        teachers: Sequence[TeacherOutput] | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of one step and its terms; nothing is read back from the device.

        Args:
            logits: the student's, float [B, C], the images of all degradations one after the other.
            features: the student's feature map, float [B, ...]; may be None unless `needs_features`.
            labels: int64 [B], 0..C-1.
            slices: for each degradation d, which of the B images are its own.
            teachers: for each degradation d the outputs of its teacher on the same images in the same order,
                (logits [B_d, C], features [B_d, ...]); may be None unless `needs_teacher`, and so may either half.

        Returns:
            (total, terms): the weighted sum, a 0-d float32 tensor to call `backward` on, and the terms before
            weighting, detached 0-d float32 tensors under "ce", "feature" and "kd"; those of weight 0 are left out.

        Raises:
            ValueError: features or teachers are needed and not there, or not one teacher per slice.

        Example:
            >>> student, teacher = torch.zeros(4, 10), torch.randn(4, 10)
            >>> halves = [slice(0, 2), slice(2, 4)]
            >>> outputs = [(teacher[half], None) for half in halves]
            >>> total, terms = Objective(ce=0.1, kd=1).loss(student, None, torch.arange(4), halves, outputs)
            >>> sorted(terms)
            ['ce', 'kd']
        """
        weighted: dict[str, tuple[float, torch.Tensor]] = {}
        if self.ce > 0:
            weighted["ce"] = self.ce, F.cross_entropy(logits.float(), labels)
        if self.needs_features:
            pairs = _pairs("features", features, slices, teachers)
            weighted["feature"] = self.feature, _sum([cosine_feature_loss(own, theirs) for own, theirs in pairs])
        if self.kd > 0:
            pairs = _pairs("logits", logits, slices, teachers)
            weighted["kd"] = self.kd, _sum([softened_kl(own, theirs, self.temperature) for own, theirs in pairs])
        total = _sum([weight * term for weight, term in weighted.values()])
        return total, {name: term.detach() for name, (_, term) in weighted.items()}


def _sum(terms: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(terms).sum()


def _pairs(
    what: str, student: torch.Tensor | None, slices: Sequence[slice], teachers: Sequence[TeacherOutput] | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut the student's logits or features into (student, teacher) pairs, one per degradation."""
    if student is None:
        raise ValueError(f"the objective needs the student's {what}")
    if teachers is None or len(teachers) != len(slices) or not slices:
        count = "none" if teachers is None else len(teachers)
        raise ValueError(f"the objective needs one teacher per degradation: {len(slices)} slices, teachers: {count}")
    outputs = [output[0 if what == "logits" else 1] for output in teachers]
    return [(student[part], _required(what, output)) for part, output in zip(slices, outputs, strict=True)]


def _required(what: str, output: torch.Tensor | None) -> torch.Tensor:
    if output is None:
        raise ValueError(f"the objective needs the teachers' {what}")
    return output
