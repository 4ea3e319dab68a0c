"""Language model of an OpenVLA checkpoint: supported keys of its ``text_config``, and their bounds.

Only these keys are passed to transformers' constructor, which would accept any key, some of them dangerous:
``attn_implementation: org/kernel`` downloads code from the hub and runs it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rpd.envs.errors import ConfigError

IGNORED = {
    # common to all transformers configurations: bookkeeping, training, text generation
    "_attn_implementation_autoset", "_name_or_path", "add_cross_attention", "architectures", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_decoder", "is_encoder_decoder", "label2id",
    "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "prefix", "problem_type",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id",
    "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "use_bfloat16", "use_cache",
    "pretraining_tp",  # splits matrix products, with the same results
}  # fmt: skip
"""Ignored keys: the forward pass does not depend on them."""
EMPTY = ("pruned_heads", "quantization_config", "rope_scaling")
"""Unsupported keys that may be present without a value."""
ATTENTION = ("attn_implementation", "_attn_implementation")
SAME_ATTENTION = (None, "eager", "sdpa", "flash_attention_2")
"""Implementations of the same attention. transformers would look up any other name on the hub."""


class Rope(BaseModel):
    """``rope_parameters``, as transformers 5 writes them."""

    model_config = ConfigDict(extra="forbid")

    rope_theta: float = Field(10000.0, gt=0, le=1e12)
    rope_type: Literal["default"] = "default"


class LlamaText(BaseModel):
    """``text_config``. Missing keys have the defaults of transformers' LlamaConfig (rms_norm_eps 1e-6, not Llama-2's)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    vocab_size: int = Field(ge=2, le=2**22)
    hidden_size: int = Field(4096, ge=1, le=2**16)
    intermediate_size: int = Field(11008, ge=1, le=2**18)
    num_hidden_layers: int = Field(32, ge=1, le=512)
    num_attention_heads: int = Field(32, ge=1, le=1024)
    num_key_value_heads: int | None = Field(None, ge=1, le=1024)
    head_dim: int | None = Field(None, ge=2, le=4096)
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: int = Field(2048, ge=1, le=2**24)
    rms_norm_eps: float = Field(1e-6, gt=0, le=1)
    rope_theta: float = Field(10000.0, gt=0, le=1e12)
    rope_parameters: Rope | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Training only."""
    initializer_range: float = Field(0.02, ge=0, le=1)
    """Used for new models only."""
    tie_word_embeddings: Literal[False] = False
    pad_token_id: int | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if not _is_ignored(key, value)}

    @model_validator(mode="after")
    def _divisible(self) -> LlamaText:
        heads = self.num_attention_heads
        if self.hidden_size % heads or heads % (self.num_key_value_heads or heads):
            raise ValueError(
                f"hidden_size {self.hidden_size}, num_attention_heads {heads} and num_key_value_heads "
                f"{self.num_key_value_heads}: each must be a multiple of the next"
            )
        if (self.head_dim or self.hidden_size // heads) % 2:
            raise ValueError(
                f"heads of {self.head_dim or self.hidden_size // heads} numbers: rotary positions need an even number"
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is not below vocab_size {self.vocab_size}")
        return self

    def arguments(self) -> dict[str, Any]:
        """Arguments of LlamaConfig."""
        given = self.model_dump(exclude_unset=True, exclude={"rope_theta", "rope_parameters"})
        rope = self.rope_parameters or Rope(rope_theta=self.rope_theta)
        return {**given, "rope_parameters": rope.model_dump()}


def _is_ignored(key: str, value: Any) -> bool:
    empty, attention = key in EMPTY and not value, key in ATTENTION and value in SAME_ATTENTION
    return key in IGNORED or empty or attention


def parse(text_config: dict[str, Any]) -> LlamaText:
    """Parse ``text_config``.

    Raises:
        ConfigError: another kind of language model, an unknown key, or a value out of bounds; names the key.
    """
    if (kind := text_config.get("model_type")) != "llama":
        raise ConfigError(f"language model '{kind}' is not supported; supported: llama")
    try:
        return LlamaText.model_validate(text_config)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("text_config", *first["loc"])))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{field} is not supported") from None
        raise ConfigError(f"{field}: {first['msg'].removeprefix('Value error, ')}") from None
