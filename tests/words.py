"""Small tokenizers of every kind, trained on the sentences of the small job, and models that read their tokens."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from compress_explain.data.encoding import cut
from compress_explain.data.examples import ALL, Examples
from tests.small_job import sentences
from tests.tiny import MODELS

EXTRA = "wonderful wonderfully thunderstorm restless sleeplessness unbearable unbelievably naïve café 1984 B-movie"
TEXTS = [*sentences(120, seed=9)["text"], *([EXTRA] * 3)]
KINDS = ("bert", "gpt2", "t5", "roberta")


def trained_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """WordPiece for BERT, Unigram for T5, byte-level BPE for the others, each as in that family."""
    return copy.deepcopy(_trained(family))


@cache
def _trained(family: str) -> PreTrainedTokenizerFast:
    return {"bert": _wordpiece, "gpt2": _byte_level, "llama": _byte_level, "t5": _unigram, "roberta": _roberta}[
        family
    ]()


def reading_model(family: str, tokenizer: Any, *, generates: bool = False, rows_beyond: int = 0) -> Any:
    """A random tiny model whose every weight matters and whose special tokens are the tokenizer's."""
    tiny = MODELS[family]
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }
    special |= {"decoder_start_token_id": tokenizer.pad_token_id} if family == "t5" else {}
    options = {**tiny.options, **special, "vocab_size": len(tokenizer) + rows_beyond}
    torch.manual_seed(3)
    model = (tiny.generator if generates else tiny.classifier)(tiny.config(**options, num_labels=2))  # type: ignore[misc]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def _wordpiece() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=40,
    )  # fmt: skip


def _byte_level_bpe(special: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    )
    return made


def _byte_level() -> PreTrainedTokenizerFast:
    made = _byte_level_bpe([])
    made.add_special_tokens(["<|endoftext|>"])  # after the others, as in GPT-2
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=end, eos_token=end, pad_token=end, model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _roberta() -> PreTrainedTokenizerFast:
    made = _byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
        unk_token="<unk>", mask_token="<mask>", model_max_length=36, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _unigram() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=40,
        extra_special_tokens=["<extra_id_0>", "<extra_id_1>"], model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def read_examples(tokenizer: Any, texts: list[str], name: str = "calibration") -> Examples:
    """A split of texts with alternating labels, cut to 24 tokens."""
    labels = np.arange(len(texts)) % 2
    inputs = cut(tokenizer, texts, 24)
    return Examples(
        name=name, inputs=inputs, labels=labels, slices={ALL: np.ones(len(texts), dtype=bool), "odd": labels == 1},
        texts=tuple(texts), digest=name, padding=dict.fromkeys(inputs, 0) | {"input_ids": tokenizer.pad_token_id},
        max_length=24,
    )  # fmt: skip
