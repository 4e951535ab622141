"""Who is drawn: what stays the same in all pictures of a person."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fedstrata.drawn_faces.chances import Bools, Chances, Floats, Ints

_STREAM = 7301  # keeps the numbers of people apart from those of pictures and cameras
_COLUMNS = 96

_SKINS = ((255, 224, 200), (244, 206, 176), (228, 184, 148), (206, 158, 118), (172, 122, 86),
          (134, 90, 62), (98, 64, 46))  # fmt: skip
_HAIRS = ((24, 20, 22), (44, 32, 28), (78, 52, 36), (112, 74, 46), (150, 104, 60), (196, 152, 92),
          (226, 196, 140))  # fmt: skip
_REDS = ((128, 56, 32), (176, 84, 44))
_GREYS = ((126, 124, 126), (176, 174, 176), (226, 224, 222))
_EYES = ((52, 34, 24), (92, 62, 38), (112, 108, 62), (84, 120, 92), (84, 124, 160), (120, 134, 146))

HAIR_STYLES = ("bald", "cropped", "short", "parted", "curly", "fringe", "bob", "long", "tied")
_STYLES_OF_MEN = (0.10, 0.18, 0.28, 0.18, 0.08, 0.05, 0.04, 0.06, 0.03)
_STYLES_OF_WOMEN = (0.01, 0.04, 0.08, 0.08, 0.12, 0.15, 0.17, 0.25, 0.10)
BEARDS = ("none", "stubble", "moustache", "full")


@dataclass(frozen=True)
class People:
    """One row per person; the units of lengths are half the width of an average face.

    All fields have shape ``(n,)``, colours ``(n, 3)`` from 0 to 255.
    """

    male: Bools
    old: Bools
    width: Floats
    chin: Floats
    taper: Floats
    square: Floats
    sag: Floats
    skin: Floats
    hair: Floats
    hair_style: Ints
    hair_volume: Floats
    hairline: Floats
    receding: Floats
    parting: Floats
    brow_colour: Floats
    brow_thickness: Floats
    brow_height: Floats
    brow_arch: Floats
    eye_colour: Floats
    eye_distance: Floats
    eye_width: Floats
    eye_height: Floats
    eye_slant: Floats
    lid_droop: Floats
    lashes: Floats
    nose_width: Floats
    nose_length: Floats
    nose_bridge: Floats
    mouth_width: Floats
    mouth_height: Floats
    lip_fullness: Floats
    lip_redness: Floats
    ear_size: Floats
    beard: Ints
    wrinkles: Floats
    folds: Floats
    bags: Floats
    freckles: Floats

    def take(self, rows: Ints) -> People:
        """Return the people at ``rows``, repeated as often as they occur there."""
        return People(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def evenly_spread(identities: Ints, share: float) -> Bools:
    """Return True for a share of the integers, spread so evenly that every range has its share.

    The k-th integer is chosen where ``floor(k * share)`` steps up: of any m consecutive integers
    ``m * share`` are chosen, to within one.
    """
    return np.asarray(np.floor((identities + 1) * share) > np.floor(identities * share))


def make_people(identities: Ints, male_share: float, young_share: float) -> People:
    """Return the people with the given numbers; a number is the same person everywhere.

    Parameters
    ----------
    identities : NDArray[np.int64]
        Numbers of people, at least 0, shape ``(n,)``.
    male_share, young_share : float
        Shares of men and of young people in any long range of numbers.
    """
    uniforms = [np.random.default_rng((_STREAM, int(each))).random(_COLUMNS) for each in identities]
    male, old = evenly_spread(identities, male_share), ~evenly_spread(identities, young_share)
    return _draw_traits(Chances(np.asarray(uniforms).reshape(-1, _COLUMNS)), male, old)


def _draw_traits(dice: Chances, male: Bools, old: Bools) -> People:
    """Draw every trait; those of men and women, of old and young, overlap."""
    sex, age = male.astype(float), old.astype(float)
    skin = dice.colour(_SKINS)
    hair = _hair_colour(dice, old)
    style = _hair_style(dice, male, old)
    return People(
        male=male,
        old=old,
        width=dice.around(0.97 + 0.03 * sex, 0.05),
        chin=dice.around(1.24 + 0.08 * sex, 0.05),
        taper=np.clip(dice.around(0.42 - 0.18 * sex, 0.07), 0.08, 0.6),
        square=np.clip(dice.around(2.6 + 1.9 * sex, 0.65), 1.9, 7.0),
        sag=np.clip(dice.around(0.14 * age, 0.05), 0.0, 0.25),
        skin=skin,
        hair=hair,
        hair_style=style,
        hair_volume=dice.between(0.08, 0.24),
        hairline=dice.around(-0.86, 0.06),
        receding=np.clip(dice.around(0.05 * sex + 0.31 * age, 0.09), 0.0, 0.6),
        parting=dice.between(-0.16, 0.16),
        brow_colour=_brow_colour(dice, hair, old),
        brow_thickness=np.clip(dice.around(0.085 + 0.055 * sex, 0.022), 0.045, 0.2),
        brow_height=dice.around(0.40 - 0.09 * sex, 0.035),
        brow_arch=dice.around(0.09 - 0.06 * sex, 0.03),
        eye_colour=dice.colour(_EYES),
        eye_distance=dice.around(0.43, 0.03),
        eye_width=dice.around(0.225 - 0.015 * sex, 0.018),
        eye_height=np.clip(dice.around(0.115 - 0.018 * sex - 0.015 * age, 0.014), 0.06, 0.17),
        eye_slant=dice.around(-0.02, 0.025),
        lid_droop=np.clip(dice.around(0.06 * age, 0.02), 0.0, 0.12),
        lashes=np.clip(dice.around(0.75 - 0.65 * sex, 0.28), 0.0, 1.2),
        nose_width=dice.around(0.19 + 0.025 * sex, 0.025),
        nose_length=dice.around(0.50 + 0.03 * sex + 0.02 * age, 0.04),
        nose_bridge=dice.around(0.16, 0.05),
        mouth_width=dice.around(0.40 + 0.01 * sex, 0.035),
        mouth_height=dice.around(0.84 + 0.02 * sex, 0.03),
        lip_fullness=np.clip(dice.around(0.115 - 0.035 * sex - 0.035 * age, 0.02), 0.025, 0.18),
        lip_redness=np.clip(dice.around(0.55 - 0.25 * sex, 0.25), 0.1, 1.1),
        ear_size=dice.around(0.27 + 0.02 * sex + 0.03 * age, 0.03),
        beard=dice.pick(np.where(male[:, None], (0.62, 0.18, 0.07, 0.13), (1.0, 0.0, 0.0, 0.0))),
        wrinkles=np.clip(dice.around(0.80 * age, 0.10), 0.0, 1.0),
        folds=np.clip(dice.around(0.12 + 0.55 * age, 0.12), 0.0, 1.0),
        bags=np.clip(dice.around(0.10 + 0.55 * age, 0.13), 0.0, 1.0),
        freckles=np.where(dice.yes(0.12), dice.between(0.3, 0.7), 0.0),
    )


def _hair_colour(dice: Chances, old: Bools) -> Floats:
    """Grey for many old people and, dyed, for some young ones."""
    kind = dice.pick(np.where(old[:, None], (0.46, 0.06, 0.48), (0.74, 0.08, 0.18)))
    kinds = np.stack([dice.colour(each) for each in (_HAIRS, _REDS, _GREYS)], axis=1)
    return kinds[np.arange(len(kind)), kind]


def _brow_colour(dice: Chances, hair: Floats, old: Bools) -> Floats:
    """Darker than the hair, and grey more often for the old."""
    own = hair * dice.between(0.35, 0.7)[:, None]
    grey = dice.colour(_GREYS) * 0.85
    return np.where(dice.yes(np.where(old, 0.35, 0.06))[:, None], grey, own)


def _hair_style(dice: Chances, male: Bools, old: Bools) -> Ints:
    """Return indices into ``HAIR_STYLES``."""
    weights = np.where(male[:, None], _STYLES_OF_MEN, _STYLES_OF_WOMEN)
    weights[:, 0] *= np.where(old, 2.0, 0.6)
    return dice.pick(weights)
