"""What the sandbox's tiny models share: tokenizer, Llama of a few million weights, optimiser, how they are saved.

Place in the flow: none at run time; `build_student` and `build_judge` use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

END, PAD = "<|end|>", "<|pad|>"

WORDS = r" ?\d{1,2}:\d\d| ?\p{L}+(?:['’]\p{L}+)?| ?\d+|\n+| ?[^\s\p{L}\p{N}]+|\s"
"""How text is cut before the byte-level BPE; a time of day stays whole, which makes it one token to copy."""

COMMON_ENGLISH = (
    "the of and to in is that it was for on are with as his they be at one have this from or had by but some what "
    "there we can out other were all your when up use word how said an each which she do their time if will way "
    "about many then them would write like so these her long make thing see him two has look more day could go "
    "come did number sound no most people my over know water than call first who may down side been now find any "
    "new work part take get place made live where after back little only round man year came show every good me "
    "give our under name very through just form sentence great think say help low line differ turn cause much "
    "mean before move right boy old too same tell does set three want air well also play small end put home read "
    "hand port large spell add even land here must big high such follow act why ask men change went light kind "
    "off need house picture try us again animal point mother world near build self earth father head stand own "
    "page should country found answer school grow study"
)
"""Everyday words for the tokenizer's last merges, so that other texts are not spelt letter by letter."""

CONTEXT = 4096
WARM_UP, WEIGHT_DECAY = 80, 0.05


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a tiny model; the defaults are the student's and the judge's. Widths are multiples of 64."""

    vocabulary: int = 1344
    """Tokens, special ones and the 256 bytes among them."""
    width: int = 192
    """Width of the hidden states."""
    inner: int = 512
    """Width inside the feed-forward layers."""
    layers: int = 4
    """Number of layers."""
    heads: int = 6
    """Attention heads; each is width / heads wide."""
    key_heads: int = 6
    """Heads of keys and values, shared among the attention heads where they are fewer."""
    spread: float = 0.06
    """Standard deviation of the first weights: near 1 / sqrt(width), where so narrow a model learns fastest."""


STANDARD = Shape()


def build_tokenizer(
    texts: Iterable[str],
    turns: Iterable[str],
    template: str,
    vocabulary: int = STANDARD.vocabulary,
    end: str = END,
) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer and give it the chat template; any text can be encoded and decoded back.

    `turns` are the tokens that open a turn; they and the end token are special.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    turns = list(turns)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, end, *turns],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(f" {COMMON_ENGLISH}" for _ in range(4))], trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ValueError(f"tokenizer: {tokenizer.get_vocab_size()} tokens, expected {vocabulary}")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=PAD,
        additional_special_tokens=turns,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = template
    return fast


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of one token."""
    return int(tokenizer.get_vocab()[token])


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, shape: Shape = STANDARD) -> Any:
    """Build the untrained model: a small Llama whose linear layers are all multiples of 64 wide."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            initializer_range=shape.spread,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_optimizer(model: Any, rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """Build AdamW, weight decay on matrices only, and its schedule: a warm-up, then a cosine down to a fiftieth."""
    import torch

    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )

    def share(step: int) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * decay)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder that is shipped: float16 weights, configs, tokenizer, template."""
    import torch
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
