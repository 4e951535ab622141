"""A text model's folder gives architecture, tensors and tokenizer, or an error that names the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedstrata.support.errors import UserError
from models.networks.text import folder_tensors
from models.text_folders import random_model, read_architecture, read_tokenizer, stored_tensors
from models.weights import load_into
from tests.helpers.text_models import text_network, tiny_bert

pytest.importorskip("transformers")
WORDS = ("cough", "fever", "knee", "hip", "rash", "itch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path, WORDS)


def test_the_architecture_is_that_of_the_configuration(folder):
    architecture = read_architecture(folder)
    assert (architecture.vocabulary, architecture.padding, architecture.longest) == (11, 0, 24)


def test_the_digest_depends_on_what_has_no_tensor(tmp_path):
    changes = [{}, {"num_attention_heads": 4}, {"hidden_act": "relu"}]
    folders = [tiny_bert(tmp_path / str(n), WORDS, **some) for n, some in enumerate(changes)]
    assert len({read_architecture(folder).digest for folder in folders}) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json"),
        ({"model_type": "t5"}, "also has a decoder"),
        ({"model_type": "vit"}, "no vocab_size"),
        ({"model_type": "bert", "pad_token_id": 99, "vocab_size": 11}, "pad_token_id is 99"),
    ],
)
def test_a_wrong_configuration_is_reported(folder, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_architecture(folder)


def test_a_random_model_has_the_names_of_the_stored_tensors(folder):
    stored, drawn = stored_tensors(folder), random_model(folder).state_dict()
    assert stored.keys() == drawn.keys()
    assert not any(name.startswith("pooler") for name in stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    name = "embeddings.word_embeddings.weight"
    assert stored[name].equal(load_file(folder / "model.safetensors")[name])
    assert not drawn[name].equal(stored[name])


def test_missing_weights_are_reported(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        stored_tensors(folder)


def test_the_tokenizer_knows_its_words(folder):
    tokenizer = read_tokenizer(folder)
    assert tokenizer(["Cough knee unheard"])["input_ids"] == [[2, 5, 7, 1, 3]]


def test_a_folder_without_vocabulary_is_rejected(folder):
    # transformers would give a tokenizer to which every word is unknown
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer; there must be tokenizer\.json, vocab"):
        read_tokenizer(folder)


def test_a_tokenizer_of_another_model_is_rejected(tmp_path):
    folder = tiny_bert(tmp_path, WORDS, pad_token_id=4)
    with pytest.raises(UserError, match=r"pads with 0, but config\.json has pad_token_id 4"):
        read_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        read_tokenizer(folder)


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    tiny_bert(tmp_path, WORDS)
    return tmp_path


def test_stored_tensors_come_under_the_networks_names(models_dir):
    stored = load_file(models_dir / "tiny-bert" / "model.safetensors")
    model = text_network(models_dir)
    report = load_into(model, folder_tensors("tiny-bert", models_dir))
    assert {name.partition(".")[0] for name in report.missing} == {"head"}
    assert (report.unexpected, report.mismatched) == ((), ())
    own = model.state_dict()
    for name, tensor in stored.items():
        if not name.startswith("pooler."):
            assert torch.equal(own[f"encoder.model.{name}"], tensor)


def test_files_of_larger_and_older_and_smaller_models_are_read(models_dir):
    path = models_dir / "tiny-bert" / "model.safetensors"
    stored = load_file(path)
    expected = folder_tensors("tiny-bert", models_dir)
    old = {"weight": "gamma", "bias": "beta"}

    def renamed(name: str) -> str:
        head, _, last = name.rpartition(".")
        return f"bert.{head}.{old[last] if head.endswith('LayerNorm') else last}"

    spelt = {renamed(name): tensor for name, tensor in stored.items()}
    assert any(name.endswith("LayerNorm.gamma") for name in spelt)
    save_file(spelt | {"cls.predictions.bias": torch.ones(3)}, path, {"format": "pt"})
    found = folder_tensors("tiny-bert", models_dir)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    half = {name: tensor.half() for name, tensor in stored.items()}
    save_file(half, path, {"format": "pt"})
    single = folder_tensors("tiny-bert", models_dir)
    assert {tensor.dtype for tensor in single.values()} == {torch.float32}
    gone = "encoder.layer.1.output.dense.bias"
    save_file({n: t for n, t in stored.items() if n != gone}, path, {"format": "pt"})
    assert expected.keys() - folder_tensors("tiny-bert", models_dir).keys() == {
        f"encoder.model.{gone}"
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("", "config.json: "),
        ("{", "config.json: "),
        ("[]", "config.json: "),
        ("[" * 100_000, "config.json: "),
        ("{}", "model_type"),
        ({"model_type": "nothing"}, "nothing"),
        ({"model_type": "t5"}, "also has a decoder"),
        ({"model_type": "vit"}, "no vocab_size; is it a text model"),
        ({"model_type": "bert", "pad_token_id": None}, "pad_token_id is None"),
        ({"model_type": "bert", "pad_token_id": 99, "vocab_size": 11}, "pad_token_id is 99"),
        ({"model_type": "bert", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}, "hidden size"),
        ({"model_type": "other", "auto_map": {"AutoConfig": "evil.Config"}}, "custom code"),
    ],
)
def test_a_wrong_configuration_is_named_and_no_code_is_run(models_dir, config, said):
    folder = models_dir / "tiny-bert"
    (folder / "evil.py").write_text(f"open({str(models_dir / 'was_run')!r}, 'w')")
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        text_network(models_dir)
    assert "config.json" in str(caught.value)
    assert not (models_dir / "was_run").exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other", "pickle"])
def test_damaged_weights_are_named(models_dir, damage):
    path = models_dir / "tiny-bert" / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "other":
        save_file({"embeddings.word_embeddings.weight": torch.ones(4, 4)}, path, {"format": "pt"})
    elif damage == "pickle":  # never read, though transformers could
        torch.save(
            text_network(models_dir).encoder.model.state_dict(), path.parent / "pytorch_model.bin"
        )
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        folder_tensors("tiny-bert", models_dir)


def test_without_the_package_the_error_says_what_to_do(models_dir):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from pathlib import Path\n"
        "from fedstrata.support.errors import UserError\n"
        "from models.networks import build\n"
        "build('mlp', input_shape=(3,), classes=2, head=[], hidden=[])\n"
        "try:\n"
        "    build('text_encoder', input_shape=(8,), classes=2, head=[], folder='tiny-bert',\n"
        f"          models_dir=Path({str(models_dir)!r}))\n"
        "except UserError as error:\n"
        "    sys.exit(0 if \"pip install -e '.[text]'\" in str(error) else str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_nothing_else_imports_the_package():
    code = (
        "import sys, client_app.round, client_app.data.registry, server_app.start_weights\n"
        "import client_app.data.text\n"
        "sys.exit('transformers' in sys.modules or 'tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
