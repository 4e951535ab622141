"""Tiny text models for the tests: a BERT drawn at random, with a tokenizer of given words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ("cough", "fever", "knee", "hip", "rash", "itch", "the", "has", "patient")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_bert(
    models_dir: Path, words: Sequence[str], name: str = "tiny-bert", seed: int = 0, **changes: Any
) -> Path:
    """Write config.json, model.safetensors, vocab.txt into ``models_dir / name``."""
    import torch
    from transformers import BertConfig, BertModel

    vocabulary = [*SPECIAL, *words]
    config = BertConfig(
        **{
            "vocab_size": len(vocabulary),
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 24,
            **changes,
        }
    )
    folder = models_dir / name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
        with torch.no_grad():  # what words there are shows in the features, where they are less
            model.embeddings.word_embeddings.weight.mul_(10)
        model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


def text_network(
    models_dir: Path,
    *,
    length: int = 8,
    folder: str = "tiny-bert",
    classes: int = 3,
    head: Sequence[int] = (5,),
) -> Any:
    """Return the network ``text_encoder`` over a folder of ``models_dir``."""
    from models.networks import build

    return build(
        "text_encoder",
        input_shape=(length,),
        classes=classes,
        head=head,
        folder=folder,
        models_dir=models_dir,
    )
