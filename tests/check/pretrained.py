"""Models of Transformers, unchanged, from small configurations."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

from check.case import Case

VOCABULARY, WIDTH = 40, 16
_SIZE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def gpt2() -> nn.Module:
    config = tf.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return tf.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    return tf.BertForSequenceClassification(
        tf.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, num_labels=3, **_SIZE)
    )


def llama() -> nn.Module:
    return tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=1, **_SIZE))


def t5() -> nn.Module:
    config = tf.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return tf.T5ForConditionalGeneration(config)


def vit() -> nn.Module:
    return tf.ViTForImageClassification(tf.ViTConfig(image_size=8, patch_size=4, num_channels=2, num_labels=3, **_SIZE))


def resnet() -> nn.Module:
    config = tf.ResNetConfig(
        num_channels=2, embedding_size=5, hidden_sizes=[5, 6], depths=[2, 1], layer_type="basic", num_labels=3
    )
    return tf.ResNetForImageClassification(config)


def words(length: int = 7) -> Tensor:
    return torch.randint(3, VOCABULARY, (4, length))


def logits(returned: Any) -> Tensor:
    return returned.logits


PRETRAINED = [
    Case("gpt2", gpt2, lambda: {"input_ids": words(), "labels": words()}, {"output": "lm_head"}, logits,
         leaks=("transformer.wte", "transformer.wpe", "transformer.h.0.attn.c_attn", "transformer.ln_f")),
    Case("bert", bert, lambda: {"input_ids": words()}, {"output": "classifier"}, logits),
    Case("llama", llama, lambda: {"input_ids": words()}, {"output": "lm_head"}, logits,
         leaks=("model.embed_tokens", "model.layers.1.mlp.up_proj", "model.norm")),
    Case("t5", t5, lambda: {"input_ids": words(), "decoder_input_ids": words(5)},
         {"output": "lm_head", "points": "decoder.*.act"}, logits,
         leaks=("shared", "encoder.block.0.layer.0.SelfAttention.q", "decoder.final_layer_norm")),
    Case("vit", vit, lambda: {"pixel_values": torch.randn(4, 2, 8, 8)}, {"output": "classifier"}, logits,
         leaks=("vit.embeddings", "vit.layers.1.mlp.fc2", "vit.layernorm")),
    Case("resnet-transformers", resnet, lambda: {"pixel_values": torch.randn(4, 2, 16, 16)},
         {"output": "classifier.1"}, logits),
]  # fmt: skip
