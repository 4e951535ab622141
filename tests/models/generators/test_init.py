"""Which generator a name or a path opens, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from models.generators import PACKAGED, PACKAGED_FILE, StyleGenerator, open_generator
from models.generators.style import StyleNetwork
from models.packaged import Packaged


def small() -> StyleNetwork:
    torch.manual_seed(1)
    return StyleNetwork((6, 5), latent=4, noise=3, layers=2)


def test_the_packaged_one_draws_faces_of_its_size() -> None:
    made = open_generator(PACKAGED, "method.generator")
    assert (made.latent, made.channels, made.size) == (32, 3, 32)
    torch.manual_seed(1)
    latents = made.latents(20)
    pictures = made.pictures(latents)
    assert pictures.shape == (20, 3, 32, 32)
    assert float(pictures.std(0).mean()) > 0.03  # they differ from one another
    torch.manual_seed(1)
    assert torch.equal(made.latents(20), latents)


def test_its_file_says_what_made_it_and_is_small() -> None:
    packaged = msgspec.json.decode(PACKAGED_FILE.read_bytes(), type=Packaged)
    assert packaged.command.startswith("python -m models.generators.train --out models/generators/")
    assert "drawn faces" in packaged.about
    assert PACKAGED_FILE.stat().st_size < 500_000


def test_a_users_file_is_opened_whatever_else_it_has(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "g.safetensors"
    tensors = {name: tensor.half() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file({**tensors, "mapping.w_avg": torch.zeros(4)}, path)
    made = open_generator(str(path), "method.generator")
    own = StyleGenerator(network)
    latents = own.latents(3)
    assert torch.allclose(made.pictures(latents), own.pictures(latents), atol=0.02)
    assert (made.latent, made.channels, made.size) == (4, 3, 8)


@pytest.mark.parametrize("name", ["g.pkl", "g.pt", "gone.safetensors"])
def test_a_pickle_is_never_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "g.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match=r"write packaged, or the absolute path of a \.safetensors"):
        open_generator(str(tmp_path / name), "method.generator")
    with pytest.raises(UserError, match="write packaged"):
        open_generator("g.safetensors", "method.generator")


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    safetensors.torch.save_file({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match="has no layers as of StyleGAN2"):
        open_generator(str(path), "method.generator")
    tensors = {**small().state_dict(), "synthesis.b4.const": torch.full((6, 4, 4), torch.nan)}
    safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    with pytest.raises(UserError, match=r"synthesis\.b4\.const is not finite"):
        open_generator(str(path), "method.generator")


@settings(max_examples=10)
@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_file_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "g.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is no safetensors file|has no layers"):
        open_generator(str(path), "method.generator")
