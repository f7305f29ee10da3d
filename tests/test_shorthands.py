"""What people write for short means what they mean, or the error says what to write."""

from __future__ import annotations

import pytest

from fusiondistill import config_file
from fusiondistill.config_file import parse
from mistaken import only_mistake


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("seeds: 0", "seeds: [0]"),
        ("seeds: 0..3", "seeds: [0, 1, 2, 3]"),
        ("seeds: 0, 4", "seeds: [0, 4]"),
        ("base: {optimizer: adamw}", "base: {optimizer: {name: adamw}}"),
        ("define: {a: {like: fusing, schedule: cosine}}", "define: {a: {like: fusing, schedule: {name: cosine}}}"),
        ("evaluation: {unseen: 'haze, contrast'}", "evaluation: {unseen: [haze, contrast]}"),
        ("evaluation: {unseen: none, corruptions: none}", "evaluation: {unseen: [], corruptions: null}"),
        ("base: {checkpoint: none}", "base: {checkpoint: null}"),
        ("base: {resized_crop: 0.3}", "base: {resized_crop: [0.3, 1]}"),
        ("define: {a: {like: fusing, resized_crop: 1}}", "define: {a: {like: fusing, resized_crop: [1, 1]}}"),
        ("model: resnet18", "model: {name: resnet18}"),
        ("data: digits", "data: {name: digits}"),
        ("degradations: blur", "degradations: [blur]"),
        ("methods: base", "methods: [base]"),
        ("evaluation: {unseen: haze}", "evaluation: {unseen: [haze]}"),
        ("degradations: [jpeg, {name: blur, as: light, levels: 0..9}, impulse]\nevaluation: {unseen: true}",
         "degradations: [jpeg, {name: blur, as: light, levels: 0..9}, impulse]\nevaluation: {unseen: [noise, "
         "saltpepper, blur_noise_jpeg, brightness, contrast, defocus, haze, motion_blur, pixelate, speckle]}"),
        ("evaluation: {unseen: false}", "evaluation: {unseen: []}"),
        *((f"{key}: {nothing}", f"{key}: null") for key in ("search", "sweep", "tracking")
          for nothing in ("none", "None", "NONE", "no", "off", "false", "'null'")),
        ("plugins: none", "plugins: []"),
        ("sweep: {model: [resnet18, cifar_resnet8]}", "sweep: {model.name: [resnet18, cifar_resnet8]}"),
    ],
)  # fmt: skip
def test_short_is_long(short: str, long: str) -> None:
    one, other = (config_file.parse_points(f"experiment: x\n{text}\n")[1] for text in (short, long))
    left_out = {"experiment": True}
    assert [c.model_dump(exclude=left_out) for c in one] == [c.model_dump(exclude=left_out) for c in other]


def test_overrides_go_on_from_what_was_written_for_short() -> None:
    overrides = ["model.feature_layer=layer3", "degradations=noise", "search=none", "seeds=0"]
    config = parse("experiment: x\nmodel: resnet18\nsearch: {space: {loss.kd: {choice: [1]}}}\n", overrides=overrides)
    assert (config.model.name, config.model.feature_layer) == ("resnet18", "layer3")
    assert ([one.id for one in config.degradations], config.search, config.seeds) == (["noise"], (), (0,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: 3", "seeds: is a list: write [3] for the one seed 3, [0, 1, 2] for 3 seeds"),
        ("seeds: 1", "seeds: is a list: write [1] for the one seed 1"),
        ("seeds: 5", "write [5] for the one seed 5, [0, 1, 2, ...] for 5 seeds"),
        *((f"seeds: {given}", "seeds: must be a list of whole numbers, like [0, 1, 2] or 0..4, not")
          for given in ("1.0", "true", "'0'", "null", "4..0", "0..99999")),
        ("seed: 0", "did you mean seeds, evaluation.seed?"),
        *((f"search: {given}", "search: must be a mapping with a space, like") for given in ("random", "true", "3")),
        ("tracking: mlflow", "tracking: input should be a mapping with keys such as mlflow, wandb, not 'mlflow'"),
        ("resources: 2", "resources: input should be a mapping with keys such as"),
        ("base: {epochs: 1,000}", "base.000: unknown key"),
        ("base: {epochss: }", "base.epochss: unknown key; did you mean 'epochs'?"),
        ("base: {epochs: 0x_}", "base.epochs: input should be a whole number, not '0x_'"),
        ("base: {compile: yess}", "base.compile: input should be true or false, not 'yess'"),
        ("recipe: fats", "recipe: input should be 'paper', 'paper-cifar100' or 'fast', not 'fats'; did you mean "
         "'fast'?"),
        ("base: {schedule: cosin}", "base.schedule.name: input should be 'steps', 'cosine', 'linear' or 'constant', "
         "not 'cosin'; did you mean 'cosine'?"),
        ("data: {root: photos}", "data.root: does not say what is there: name: folder, table, parquet"),
        ("data: photos/", "what lies at a path is {name: folder or table or parquet, root: photos/}"),
        ("data: {name: csv, root: x}", "no data set 'csv'; did you mean 'table'?"),
        ("data: {name: folder, root: x, test: 20%}", "data.test: input should be a number, not '20%': write 0.2"),
        ("base: {optimizer: {lr: '0,1'}}", "base.optimizer.lr: input should be a number, not '0,1': write 0.1"),
        ("data: {name: digits, mean: imagenet}", "not 'imagenet': write [NUMBER, NUMBER, NUMBER]"),
        ("data: {name: folder, root: x, background: pink}", "data.background: input should be 'white' or 'black', not"),
        ("data: {name: folder, root: x, background: [1, 2, 300]}", "data.background.2: input should be less than or"),
        ("search: {space: {lr: {uniform: [0.1, 1]}}}", "is no key of the recipe; did you mean 'optimizer.lr'?"),
        ("select: val", "not 'val'; did you mean 'validation'?"),
        ("define: {mine: {}}", "define.mine: says neither train_on (trained), nor"),
        ("model: {name: resnet18, pretrained: true}", "model.pretrained: unknown key; did you mean 'weights'?"),
        ("resources: {capture: 2}", "resources.capture: input should be true or false, not 2"),
        ("data: DIGITS", "no data set 'DIGITS'; did you mean 'digits'?"),
        ("search: {space: {loss.kd: {uniform: [0,1, 1]}}}", "should have at most 2 items, not 3 (a comma separates"),
        ("base: {lr: 0.1}", "base.lr: unknown key here; did you mean base.optimizer.lr?"),
        ("base: {optimizer: {epochs: 3}}", "base.optimizer.epochs: unknown key here; did you mean base.epochs?"),
        ("base: {schedule: {name: constant, lr: 1}}", "unknown key here; did you mean base.optimizer.lr?"),
        ("workers: 3", "workers: unknown key here; did you mean resources.workers?"),
        ("lr: 0.1", "did you mean base.optimizer.lr, expert.optimizer.lr, scratch.optimizer.lr, ...?"),
        ("define: {mine: {like: fusing, momentum: 0.5}}", "did you mean define.mine.optimizer.momentum?"),
        ("base: {optimizer: {momentm: 1}}", "base.optimizer.momentm: unknown key; did you mean 'momentum'?"),
    ],
)  # fmt: skip
def test_what_is_said_instead(text: str, said: str) -> None:
    mistake = only_mistake(lambda: parse(f"experiment: x\n{text}\n"))
    assert said in str(mistake) and mistake.line == 2
