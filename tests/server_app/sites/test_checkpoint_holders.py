"""Who may lack the pre-trained checkpoint."""

from __future__ import annotations

from server_app.sites.checkpoint_holders import CheckpointHolders


def test_a_site_lacks_the_checkpoint_until_it_has_it() -> None:
    holders = CheckpointHolders()
    holders.joined(["a", "b"], lacking=["a"])
    assert holders.lacking == {"a"}
    holders.has_it("a")
    assert not holders.lacking


def test_a_silent_site_counts_again_once_it_is_heard() -> None:
    holders = CheckpointHolders(lacking={"a", "b"}, silent={"a", "b"})
    holders.heard_from(["a"])
    assert holders.silent == {"b"}
    holders.joined(["b"], lacking=["b"])
    assert not holders.silent
