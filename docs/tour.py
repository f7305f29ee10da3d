"""The method, step by step."""

# %% [markdown]
# # fusiondistill in five minutes on one core
# Two degradations instead of four, scanned digits instead of photos.

# %%
import matplotlib

matplotlib.use("Agg")  # a notebook leaves this line out

import matplotlib.pyplot as plt
import torch

from fusiondistill import (
    ImageClassifier,
    average,
    build_model,
    degrade,
    evaluate,
    fit,
    load_images,
    merge,
    recalibrate_batchnorm,
)
from fusiondistill.merging import At

IMAGES, EPOCHS, MODEL = 1200, 8, "cifar_resnet8"
DEGRADATIONS = ("blur", "noise")
train, test = load_images("digits", "train").take(IMAGES), load_images("digits", "test")
torch.set_num_threads(1)

# %% [markdown]
# ## Degrade
# Images are uint8, [B, 3, H, W]. Each has its own level.

# %%
pixels, labels = test.gather(range(5))
levels = torch.tensor([0, 10, 20, 30, 40])
numbers = torch.arange(5)  # noise depends on the seed and the image's number
degraded = {name: degrade(pixels, name, levels, seed=1, indices=numbers) for name in DEGRADATIONS}

# %% [markdown]
# ## Train a base and two experts
# An expert starts from the base. The base is also its teacher: their features are compared.

# %%
recipe = {"recipe": "fast", "epochs": EPOCHS}
base = fit(recipe, train, model=MODEL, seed=0).model
experts = {
    name: fit(recipe, train, start=base, degradations=[name], teachers=base, seed=0).model for name in DEGRADATIONS
}

# %% [markdown]
# ## Merge
# The mean of the experts' weights. BatchNorm's statistics are recomputed on images under all degradations.

# %%
states = [expert.network.state_dict() for expert in experts.values()]


def mixed_images():
    """Batches of training images, half of them under each degradation at random levels."""
    for start in range(0, min(512, len(train)), 64):
        index = torch.arange(start, min(start + 64, len(train)))
        images, _ = train.gather(index)
        some = torch.randint(0, 51, (len(images),), generator=torch.Generator().manual_seed(start))
        yield torch.cat([degrade(images, name, some, seed=2, indices=index) for name in DEGRADATIONS])


def network_of(weights):
    """A classifier with these weights and fresh BatchNorm statistics."""
    network = build_model(MODEL, len(train.classes))
    network.load_state_dict(weights)
    made = ImageClassifier(network, train.mean, train.std, train.classes)
    return recalibrate_batchnorm(made, mixed_images()).eval()


soup = network_of(average(states))
ties = network_of(merge(states, "ties", at=At(base=base.network.state_dict()), density=0.3))

# %% [markdown]
# ## The barrier
# The loss on the straight line from one expert to the other. A hill means that averaging costs accuracy.


# %%
def loss(model):
    """Mean cross-entropy in nats on test images under both degradations."""
    images, labels = test.gather(range(min(200, len(test))))
    middle, index = torch.full((len(images),), 20), torch.arange(len(images))
    with torch.no_grad():
        logits = [model(degrade(images, name, middle, seed=1, indices=index)) for name in DEGRADATIONS]
    return sum(float(torch.nn.functional.cross_entropy(one, labels)) for one in logits) / len(logits)


shares = [0.0, 0.25, 0.5, 0.75, 1.0]
way = [loss(network_of(average(states, [1 - share, share]))) for share in shares]
barrier = max(one - ((1 - share) * way[0] + share * way[-1]) for share, one in zip(shares, way, strict=True))
print(f"barrier: {barrier:.3f} nats")

# %% [markdown]
# ## Distill
# The average is fine-tuned on both degradations at once; each image's teacher is the expert of its degradation.

# %%
final = fit(
    recipe, train, start=soup.network.state_dict(), model=MODEL, degradations=DEGRADATIONS, teachers=experts, seed=0
).model

# %% [markdown]
# ## Judge and plot
# Integer counts at each level.

# %%
models = {"base": base, "average": soup, "TIES": ties, "distilled": final}
measured = list(range(0, 51, 10))
accuracy = {}
for title, model in models.items():
    for name in DEGRADATIONS:
        right, seen = evaluate(model, test, name, measured, seed=1, batch_size=200)
        accuracy[title, name] = (100 * right / seen).tolist()
    means = [sum(accuracy[title, name]) / len(measured) for name in DEGRADATIONS]
    print(f"{title:10}", "  ".join(f"{name} {mean:.1f} %" for name, mean in zip(DEGRADATIONS, means, strict=True)))

figure, axes = plt.subplots(1, 3, figsize=(12, 3.5))
for axis, name in zip(axes, DEGRADATIONS, strict=False):
    for title in models:
        axis.plot(measured, accuracy[title, name], label=title)
    axis.set(title=name, xlabel="level", ylabel="accuracy, %")
axes[0].legend()
axes[2].plot(shares, way, marker="o")
axes[2].set(title="on the way between the experts", xlabel="share of the second", ylabel="loss, nats")
figure.tight_layout()
figure.savefig("tour.png", dpi=120)
