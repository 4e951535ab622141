"""The text encoder: features of whole texts, a folder found by name alone, tensors as stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedstrata.support.errors import UserError
from fedstrata.support.folders import model_folder
from models.freezing import frozen_cut, prefix_digest, split_at
from models.groups import partition_tensors
from models.networks import build, input_dtype
from models.networks.text import folder_tensors
from models.weights import load_into
from strategies.methods import make_method
from tests.helpers.text_models import tiny_bert

pytest.importorskip("transformers")
WORDS = ("cough", "fever", "knee", "hip", "rash", "itch")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    tiny_bert(tmp_path, WORDS)
    return tmp_path


def network(models_dir, length=8, folder="tiny-bert", classes=3, head=(5,)):
    return build(
        "text_encoder",
        input_shape=(length,),
        classes=classes,
        head=head,
        folder=folder,
        models_dir=models_dir,
    )


def ids(*rows, length=8):
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def test_ids_become_logits_through_encoder_and_head(models_dir):
    model = network(models_dir)
    assert [name for name, _ in model.named_children()] == ["encoder", "head"]
    assert {name.partition(".")[0] for name in model.state_dict()} == {"encoder", "head"}
    assert model.head[0].in_features == 64
    assert input_dtype("text_encoder") == torch.int64
    assert model(ids([2, 5, 3], [2, 6, 7, 3])).shape == (2, 3)
    assert not any("pooler" in name for name in model.state_dict())
    model(ids([2, 5, 3])).sum().backward()
    # position and kind embeddings included: nothing is exchanged that cannot learn
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_features_are_the_mean_over_the_tokens_that_are_there(models_dir):
    encoder = network(models_dir).encoder.eval()
    row = [2, 5, 8, 9, 3]
    with torch.no_grad():
        vectors = encoder.model(input_ids=ids(row, length=5)).last_hidden_state
        torch.testing.assert_close(encoder(ids(row, length=5)), vectors.mean(1))
        for length in (6, 8, 20):  # padding, however much, changes nothing
            padded = encoder(ids(row, [2, 3], length=length))[:1]
            torch.testing.assert_close(padded, vectors.mean(1), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(encoder(ids([2, 8, 5, 9, 3])), encoder(ids(row)))


def test_a_text_of_padding_alone_gives_zeros(models_dir):
    encoder = network(models_dir).encoder.eval()
    with torch.no_grad():
        features = encoder(ids([], [2, 3]))
    assert torch.equal(features[0], torch.zeros(64))
    assert features.isfinite().all()


def test_the_callers_seed_decides_the_start(models_dir):
    drawn = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        drawn.append(network(models_dir).state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    embeddings = "encoder.model.embeddings.word_embeddings.weight"
    assert not torch.equal(drawn[0][embeddings], drawn[2][embeddings])


def test_a_frozen_encoder_is_the_prefix(models_dir):
    model = network(models_dir)
    kinds = make_method({"name": "layers"}).known_groups()
    partition = partition_tensors(model, {"pretrained": ["encoder"], "common": ["..."]}, kinds)
    assert frozen_cut(model, partition) == 1
    prefix, tail = split_at(model, 1)
    batch = ids([2, 5, 3], [2, 6, 7, 3])
    with torch.no_grad():
        assert torch.equal(tail(prefix(batch)), model(batch))
    top = ["encoder.model.encoder.layer.1", "head"]  # or its last layer trained
    partition = partition_tensors(model, {"pretrained": ["..."], "common": top}, kinds)
    assert frozen_cut(model, partition) == 0
    assert {n for n, g in partition.group_of.items() if g == "common"} >= {
        "encoder.model.encoder.layer.1.output.dense.weight"
    }


def test_the_prefix_is_told_apart_by_what_has_no_tensor(tmp_path):
    digests = set()
    for number, changes in enumerate([{}, {"num_attention_heads": 4}, {"hidden_act": "relu"}]):
        tiny_bert(tmp_path / str(number), WORDS, **changes)
        model = network(tmp_path / str(number))
        load_into(model, folder_tensors("tiny-bert", tmp_path / "0"))
        digests.add(prefix_digest(model, 1))
    assert len(digests) == 3


def test_stored_tensors_come_under_the_networks_names(models_dir):
    stored = load_file(models_dir / "tiny-bert" / "model.safetensors")
    model = network(models_dir)
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
    "name", ["../tiny-bert", "/etc", "a/b", "", ".", "..", "x" * 200, 3, None, ["a"], "a\n"]
)
def test_a_folder_is_a_name_and_nothing_else(models_dir, name):
    with pytest.raises(UserError, match="is not the name of a folder"):
        model_folder(name, models_dir)


def test_folders_that_are_missing_or_lead_away_are_told(models_dir, tmp_path_factory):
    with pytest.raises(UserError, match=r"no folder 'bert' in .* models-dir"):
        model_folder("bert", models_dir)
    elsewhere = tiny_bert(tmp_path_factory.mktemp("elsewhere"), WORDS)
    (models_dir / "link").symlink_to(elsewhere)
    with pytest.raises(UserError, match="a link that leaves"):
        model_folder("link", models_dir)
    inside = models_dir / "tiny-bert" / "config.json"
    inside.unlink()
    inside.symlink_to(elsewhere / "config.json")
    with pytest.raises(UserError, match="a link that leaves"):
        network(models_dir)


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
def test_a_wrong_configuration_is_told_and_no_code_is_run(models_dir, config, said):
    folder = models_dir / "tiny-bert"
    (folder / "evil.py").write_text(f"open({str(models_dir / 'was_run')!r}, 'w')")
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        network(models_dir)
    assert "config.json" in str(caught.value)
    assert not (models_dir / "was_run").exists()


def test_inputs_that_do_not_fit_are_told(models_dir):
    with pytest.raises(UserError, match="at most 24 tokens, not 25") as caught:
        network(models_dir, length=25)
    assert caught.value.public == (
        "the folder of model.folder: the model takes at most 24 tokens, not 25: lower data.length"
    )
    with pytest.raises(UserError, match="takes texts, as rows of token ids"):
        build(
            "text_encoder",
            input_shape=(3, 8, 8),
            classes=2,
            head=[],
            folder="tiny-bert",
            models_dir=models_dir,
        )
    with pytest.raises(UserError, match="has no option 'models_dirs'; it has folder, dropout"):
        build("text_encoder", input_shape=(8,), classes=2, head=[], models_dirs="/etc")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other", "pickle"])
def test_damaged_weights_are_told(models_dir, damage):
    path = models_dir / "tiny-bert" / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "other":
        save_file({"embeddings.word_embeddings.weight": torch.ones(4, 4)}, path, {"format": "pt"})
    elif damage == "pickle":  # never read, though transformers could
        torch.save(
            network(models_dir).encoder.model.state_dict(), path.parent / "pytorch_model.bin"
        )
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        folder_tensors("tiny-bert", models_dir)


def test_without_the_package_the_way_out_is_told(models_dir):
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
