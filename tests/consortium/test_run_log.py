"""What a ServerApp says is read out of its log, a line at a time, once."""

from __future__ import annotations

from consortium.run_log import RunLog, said

LOG = (
    "\x1b[92mINFO \x1b[0m:      round 1/8: 3 of 3 sites\n"
    "INFO :        refused: north: no\x07 room\n"
    "Traceback (most recent call last):\n"
    "\x1b[93mWARNING 2026-01-31 09:10:11,123\x1b[0m:   slow disk\n"
    "INFO :      \u2503 task \u2503\n"
    "(pid=3) ERROR : not of the app\n"
)


def test_the_apps_lines_are_told_from_others() -> None:
    assert list(said(LOG)) == [
        "round 1/8: 3 of 3 sites",
        "  refused: north: no? room",
        "warning: slow disk",
        "\u2503 task \u2503",
    ]


def test_a_line_that_comes_in_two_parts_is_said_once_and_whole() -> None:
    begin = "INFO :      "
    texts = [f"{begin}round", f" 1/8\n{begin}rou", "nd 2/8\n", ""]
    parts = iter(zip(texts, (1.0, 2.0, 3.0, 3.0), strict=True))
    asked: list[float] = []

    def read(after: float) -> tuple[str, float]:
        asked.append(after)
        return next(parts)

    log = RunLog(read)
    assert [list(log.new()) for _ in range(4)] == [[], ["round 1/8"], ["round 2/8"], []]
    assert asked == [0.0, 1.0, 2.0, 3.0]
