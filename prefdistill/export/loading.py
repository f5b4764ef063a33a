"""How a reader loads an export: Python code for plain transformers and peft, and the command for vLLM.

The code is text, because it is written into the card *and* run, as it stands, to check the export.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["adapter", "merged", "nf4"]
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM's --max-lora-rank takes."""
SKIPPED = ("lm_head", "embed_out")
"""Output layers, which are never quantised."""

EXACT = (
    "for layer in model.modules():  # some CPUs would compute 4-bit layers in bfloat16",
    '    if hasattr(layer, "support_avx512bf16_for_cpu"):',
    "        layer.support_avx512bf16_for_cpu = False",
)
"""Lines without which an adapter's float32 is no float32 on CPUs with AVX512-BF16."""


@dataclass(frozen=True)
class Loadable:
    """What the loading code depends on."""

    format: Format
    name: str
    """A short name, for the server."""
    base: str
    """Hub id or folder of the base; used by an adapter alone."""
    revision: str | None
    quantized_base: bool
    """Whether an adapter's base is loaded in 4-bit."""
    dtype: str
    """Type of computation, such as float32."""
    rank: int
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 256
    block: str = ""
    """What the model's turn is begun with where its reasoning is switched off."""


def loading_code(what: Loadable, folder: str) -> str:
    """Return the code that makes `tokenizer` and `model` from the export at `folder`, a path or a hub id."""
    if what.format != "adapter":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"folder = {json.dumps(folder)}\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map="auto").eval()\n'
        )
    names = ["AutoModelForCausalLM", "AutoTokenizer", *(["BitsAndBytesConfig"] if what.quantized_base else [])]
    revision = f", revision={json.dumps(what.revision)}" if what.revision else ""
    lines = [
        "import torch",
        "from peft import PeftModel",
        f"from transformers import {', '.join([*names, 'GenerationConfig'])}",
        "",
        f"base, folder = {json.dumps(what.base)}, {json.dumps(folder)}",
        f'options = {{"dtype": torch.{what.dtype}, "device_map": "auto"}}',
    ]
    if what.quantized_base:
        lines += [
            'options["quantization_config"] = BitsAndBytesConfig(  # the base as it was trained on',
            "    load_in_4bit=True,",
            '    bnb_4bit_quant_type="nf4",',
            f"    bnb_4bit_compute_dtype=torch.{what.dtype},",
            f"    llm_int8_skip_modules={json.dumps(SKIPPED)},",
            ")",
        ]
    lines += [
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = AutoModelForCausalLM.from_pretrained(base{revision}, **options)",
        *(EXACT if what.quantized_base and what.dtype == "float32" else ()),
        "model = PeftModel.from_pretrained(model, folder).eval()",
        "model.generation_config = GenerationConfig.from_pretrained(folder)",
    ]
    return "\n".join(lines) + "\n"


def writing_code(what: Loadable) -> str:
    """Return the code that writes one answer with `tokenizer` and `model`."""
    extra = "".join(f", {name}={value!r}" for name, value in what.chat_template_kwargs.items())
    if what.block:
        return (
            'messages = [{"role": "user", "content": "Write here what you would ask it."}]\n'
            f"text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False{extra})\n"
            f"text += {json.dumps(what.block)}  # an empty trace: it answers without reasoning\n"
            'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)\n'
            f"written = model.generate(**inputs, max_new_tokens={what.max_new_tokens})\n"
            'print(tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
        )
    return (
        'messages = [{"role": "user", "content": "Write here what you would ask it."}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        f'    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{extra}\n'
        ").to(model.device)\n"
        f"written = model.generate(**inputs, max_new_tokens={what.max_new_tokens})\n"
        'print(tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
    )


def serving_command(what: Loadable, folder: str) -> str:
    """Return the command that serves the export with vLLM."""
    words = ["vllm", "serve"]
    if what.format == "adapter":
        words += [what.base, *(["--revision", what.revision] if what.revision else [])]
        words += ["--quantization", "bitsandbytes"] if what.quantized_base else []
        rank = next((each for each in LORA_RANKS if each >= what.rank), what.rank)
        words += ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{what.name}={folder}"]
        words += ["--generation-config", folder]
    else:
        words += [folder, "--served-model-name", what.name]
        words += ["--quantization", "bitsandbytes"] if what.format == "nf4" else []
    if what.chat_template_kwargs:
        words += ["--default-chat-template-kwargs", json.dumps(what.chat_template_kwargs)]
    return shlex.join(words)


def server_name(name: str) -> str:
    """Return a name that a server and a shell take without quotes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "policy"
