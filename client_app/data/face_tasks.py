"""What can be asked of drawn faces: five questions, all five at once, and the age in years."""

from __future__ import annotations

import numpy as np

from fedstrata.drawn_faces import ATTRIBUTES, CLASSES, MARGINALS, DrawnFaces
from fedstrata.drawn_faces.people import make_people
from fedstrata.protocol.task_kinds import LABELS, NUMBER, ONE_CLASS_EACH, TaskKind
from models.training.data import Labels

ALL, YEARS = "all", "age_years"
TASKS = (*ATTRIBUTES, ALL, YEARS)
YOUNGEST, SPAN = 18.0, 72.0  # years without any mark of age, and years more with all of them


def outputs_of(task: str) -> tuple[str, ...]:
    """Return the names of a task's outputs: two classes, five labels, or one number."""
    if task == ALL:
        return tuple(CLASSES[name][1] for name in ATTRIBUTES)
    return ("years",) if task == YEARS else tuple(CLASSES[task])


def kind_of_task(task: str, mean: float, std: float, unit: str) -> TaskKind:
    """Return what a task predicts; ``mean``, ``std`` and ``unit`` are those of the years."""
    if task == YEARS:
        return TaskKind(NUMBER, mean=(mean,), std=(std,), unit=unit)
    return TaskKind(LABELS) if task == ALL else ONE_CLASS_EACH


def labels_of_task(task: str, drawn: DrawnFaces) -> Labels:
    """Return what a task asks of each picture, as a `Split` has it."""
    if task == YEARS:
        return _years(drawn)[:, None].astype(np.float32)
    if task == ALL:
        answers = [drawn.labels[name] for name in ATTRIBUTES]
        return np.stack(answers, axis=1).astype(np.float32)
    return drawn.labels[task]


def _years(drawn: DrawnFaces) -> Labels:
    """Return the age of the person in each picture: from 18 years on, as its marks are drawn.

    It is linear in the mean of wrinkles, folds and bags under the eyes, and so a picture shows it.
    The old are 56 to 81 years old, the young 18 to 39.
    """
    numbers, who = np.unique(drawn.identity, return_inverse=True)
    people = make_people(numbers, MARGINALS["gender"], MARGINALS["age"])
    marks = np.mean([people.wrinkles, people.folds, people.bags], axis=0)
    years: Labels = (YOUNGEST + SPAN * marks)[who]
    return years
