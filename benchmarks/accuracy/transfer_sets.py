"""The ways of transfer that the field uses, as cases: one list of overrides each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.study import Case, Sites

MEASURED_ON_ALL = "data.measure_on_all=true"


@dataclass(frozen=True)
class TransferSet(Sites):
    """The data of sites, and the cases that make sense on them, the rows of the table.

    ``weights`` is the file or folder that some of them start from.
    """

    cases: tuple[Case, ...]
    weights: Path | None = None


def squeezenet(weights: Path) -> tuple[Case, ...]:
    """Return the cases that start from SqueezeNet 1.1 with ImageNet's weights in a file."""
    model = ("model=squeezenet1_1", "model.head=[128]", "groups=all_common")
    file = (*model, "weights=file", f"weights.path={weights}")
    late = "features.11,features.12,head"

    def shared(*groups: str) -> tuple[str, ...]:
        return (*file, *groups)

    return (
        Case("1 from scratch", (*model, "weights=none")),
        Case("2 pre-trained, everything fine-tuned", shared()),
        Case("3 feature extraction: head only", shared(*_frozen("features"))),
        Case("4a the last two fire modules and the head", shared(*_only(late))),
        Case(
            "4b all but the first 26 parameters: four fire modules and the head",
            shared("groups.pretrained=[first:26]", "groups.common=['...']"),
        ),
        Case("6 pre-trained, then local only", shared("method=local")),
        Case(
            "6 pre-trained, local, head only",
            shared("method=local", "groups.pretrained=[features]"),
        ),
    )


def small_cnn() -> tuple[Case, ...]:
    """Return the cases that start from a light CNN, pre-trained centrally on public drawn faces."""
    model = ("model=small_cnn", "model.head=[]", "groups=all_common")
    public = (
        *model,
        "weights=central",
        "weights.size=64",
        "weights.examples=5000",
        "weights.identities=250",
        "weights.epochs=4",
    )
    body = "conv1,bn1,conv2,bn2,conv3,bn3"
    head = ("groups.common=[head]", f"groups.pretrained=[{body}]")
    return (
        Case("1 from scratch", (*model, "weights=none")),
        Case("5 central pre-training, then federated fine-tuning", public),
        Case("3 feature extraction: head only", (*public, *head)),
        Case(
            "4 the last stage and the head",
            (*public, "groups.pretrained=[conv1,bn1,conv2,bn2]", "groups.common=[conv3,bn3,head]"),
        ),
        Case("6 central pre-training, then local only", (*public, "method=local")),
        Case(
            "7 edge: last layer only, 5 steps a round",
            (*public, *head, "train.epochs=null", "train.steps=5"),
        ),
    )


def deployment(rounds: int) -> TransferSet:
    """Return drawn faces with personal layers, fine-tuned after the rounds; two sites join then.

    Sites 8 and 9, of the tasks pose and teeth, take no part in the rounds.
    """
    base = drawn_faces(rounds, None)
    pretrained = next(case for case in base.cases if case.name[0] == "5")
    personal = (
        *pretrained.overrides,
        "groups.task=[]",
        "groups.personal=[head,bn1,bn2,bn3]",
        "deployment.epochs=4",
        "deployment.newcomers=[site-08,site-09]",
    )
    everything = (*pretrained.overrides, "deployment.epochs=4", "deployment.groups=[common,task]")
    joining = (*everything, "deployment.newcomers=[site-08,site-09]")
    return TransferSet(
        "deployment",
        "drawn faces, 8 sites and 2 that join after training",
        base.experiment,
        base.sites,
        base.root,
        base.overrides,
        (
            Case("personal head and BatchNorm, fine-tuned", personal),
            Case("head of the task, everything fine-tuned", joining),
        ),
    )


def drawn_faces(rounds: int, labels: int | None) -> TransferSet:
    """Return drawn faces: 10 sites, two a task, each with a camera of its own."""
    return TransferSet(
        f"faces-{_short(labels)}",
        f"drawn faces, 10 sites, 5 tasks, {_labels(labels)}",
        "faces_paper",
        10,
        None,
        (
            f"data.labels_per_class={_value(labels)}",
            "data.train=200",
            "data.validation=40",
            "data.test=200",
            *_training(rounds),
        ),
        tuple(
            Case(case.name, tuple(_head_per_task(each) for each in case.overrides))
            for case in small_cnn()
        ),
    )


def pneumonia(
    root: Path, weights: Path, rounds: int, labels: int | None, *, skewed: bool
) -> TransferSet:
    """Return PneumoniaMNIST: 4 sites, IID, or skewed with one class a site.

    In the skewed case every site is measured on the test pictures of all.
    """
    split: tuple[str, ...] = ("data.site_split.scheme=iid",)
    if skewed:
        split = (
            "data.site_split.scheme=pathological",
            "data.site_split.classes_per_site=1",
            MEASURED_ON_ALL,
        )
    kind = "one class a site, measured on both" if skewed else "IID"
    edge = [case for case in small_cnn() if case.name[0] == "7"]
    return TransferSet(
        f"pneumonia-{'skewed' if skewed else 'iid'}-{_short(labels)}",
        f"PneumoniaMNIST, 4 sites, {kind}, {_labels(labels)}",
        "medmnist",
        4,
        root,
        (
            f"data.labels_per_class={_value(labels)}",
            "data.channels=3",
            "data.size=64",
            "data.mean=[0.485,0.456,0.406]",
            "data.std=[0.229,0.224,0.225]",
            *split,
            *_training(rounds),
        ),
        (*squeezenet(weights), *edge),
        weights,
    )


def pacs(root: Path, weights: Path, rounds: int, labels: int | None) -> TransferSet:
    """Return PACS: 4 sites, one domain each: art, cartoons, photographs, sketches."""
    return TransferSet(
        f"pacs-{_short(labels)}",
        f"PACS, 4 sites, one domain each, {_labels(labels)}",
        "images",
        4,
        root,
        (
            f"data.labels_per_class={_value(labels)}",
            "data.domains=true",
            "data.site_split.scheme=domain",
            "data.size=96",
            *_training(rounds),
        ),
        squeezenet(weights),
        weights,
    )


def text(
    root: Path, encoder: Path, sites: int, column: str | None, rounds: int, labels: int | None
) -> TransferSet:
    """Return texts from a CSV file, split among sites by ``column`` (a topic a site) or at random."""
    split: tuple[str, ...] = ("data.site_split.scheme=iid",)
    if column is not None:
        split = ("data.site_split.scheme=natural", f"data.site_split.column={column}")
    everything = ("groups.pretrained=[]", "groups.common=['...']", "groups.task=[]")
    slow = "train.optimizer.lr=0.0001"
    return TransferSet(
        f"text-{_short(labels)}",
        f"texts, {sites} sites, {'one ' + column + ' each' if column else 'IID'}, {_labels(labels)}",
        "text",
        sites,
        root,
        (
            f"data.labels_per_class={_value(labels)}",
            f"model.folder={encoder.name}",
            *split,
            f"strategy.rounds={rounds}",
            "train.epochs=4",
            "train.batch_size=16",
        ),
        (
            Case("8 frozen encoder, head averaged", ()),
            Case("8 frozen encoder, local only", ("method=local",)),
            Case("8 encoder and head fine-tuned", (*everything, slow)),
        ),
        encoder,
    )


def _training(rounds: int) -> tuple[str, ...]:
    return (
        f"strategy.rounds={rounds}",
        "train.epochs=2",
        "train.batch_size=16",
        "train.optimizer.lr=0.01",
    )


def _frozen(layers: str) -> tuple[str, ...]:
    return (f"groups.pretrained=[{layers}]", "groups.common=['...']")


def _only(layers: str) -> tuple[str, ...]:
    return ("groups.pretrained=['...']", f"groups.common=[{layers}]")


def _head_per_task(override: str) -> str:
    """Put the head into ``task``: the questions about faces are different at different sites."""
    if override == "groups=all_common":
        return "groups=body_common_head_task"
    if override == "groups.common=[head]":
        return "groups.common=[]"
    return override.replace(",head]", "]")


def _short(labels: int | None) -> str:
    return "all" if labels is None else str(labels)


def _labels(labels: int | None) -> str:
    return "all labels" if labels is None else f"{labels} labels a class and site"


def _value(labels: int | None) -> str:
    return "null" if labels is None else str(labels)
