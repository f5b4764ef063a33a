"""One round of 256 pairs from two drafts each: prefdistill, a bare loop, and TRL's experimental online trainer.

    python tests/benchmarks/round.py [--repeats 2] [--quick]

Every arm does the same work with the sandbox student in 4 bit: 256 prompts, 2 drafts of at most 64 new tokens, the
shorter draft chosen, 16 DPO steps of 16 pairs on a LoRA adapter of rank 16. Loading is included, importing is not.
The bare loop is `generate` and TRL's DPOTrainer with everything that slows it switched off; TRL's online trainer runs
as shipped (gradient checkpointing, so no KV cache while generating) and with checkpointing off. Arms take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch

from prefdistill.protocols import RunContext, SampleRequest, TrainingData
from prefdistill.records import Message, Policy, PreferencePair, seed_of
from prefdistill.samplers.transformers import TransformersSampler
from prefdistill.sandbox.world import notes
from prefdistill.sections import StudentSection
from prefdistill.student import load_tokenizer, lora_config, quiet_libraries
from prefdistill.trainers.building import trainer_class
from prefdistill.trainers.dpo import DPOTrainer

PROMPTS, DRAFTS, NEW_TOKENS, BATCH, LEARNING_RATE = 256, 2, 64, 16, 5e-4
STUDENT = StudentSection(model="prefdistill.sandbox:student", device="cpu")
TEXTS = [row["prompt"] for row in notes(PROMPTS, 0, part="training")]


def ours(run: Path) -> tuple[float, float]:
    """Run a round of prefdistill; return seconds of sampling and of training."""
    context = RunContext(directory=run, seed=0, student=STUDENT)
    sampler, trainer = TransformersSampler(), DPOTrainer(batch_size=BATCH, learning_rate=LEARNING_RATE)
    sampler.open(context)
    trainer.open(context)
    base = Policy(model=STUDENT.model)
    asked = [
        SampleRequest(f"{i}/{j}", (Message(role="user", content=text),), seed_of(0, i, j), 1.0, 1.0, NEW_TOKENS)
        for i, text in enumerate(TEXTS)
        for j in range(DRAFTS)
    ]
    began = time.perf_counter()
    texts = {draft.key: draft.completion for draft in sampler.sample(base, asked)}
    sampled = time.perf_counter()
    pairs = []
    for i, text in enumerate(TEXTS):
        chosen, rejected = sorted((texts[f"{i}/0"], texts[f"{i}/1"]), key=len)
        # Equal drafts stay in, marked, so that every arm trains on 256 pairs.
        rejected = rejected if chosen.strip() != rejected.strip() else f"{rejected} ."
        pairs.append(
            PreferencePair(
                id=str(i), prompt_id=str(i), round=1, prompt=(Message(role="user", content=text),), chosen=chosen,
                rejected=rejected, chosen_id=f"{i}/0", rejected_id=f"{i}/1", chosen_score=1, rejected_score=0, margin=1,
                scale="custom",
            )
        )  # fmt: skip
    result = trainer.train(TrainingData(tuple(pairs)), base, base, run / "round-01" / "5-policy", 7)
    assert result.steps == PROMPTS // BATCH
    return sampled - began, time.perf_counter() - sampled


def quantised() -> Any:
    """Load the student as any script would."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["lm_head"])
    return AutoModelForCausalLM.from_pretrained(STUDENT.source, quantization_config=config, dtype=torch.float32)


def bare(run: Path) -> tuple[float, float]:
    """`generate` at 16 prompts a batch, then TRL's DPOTrainer; return seconds of both."""
    import trl
    from datasets import Dataset
    from peft import get_peft_model

    tokenizer = load_tokenizer(STUDENT)
    began = time.perf_counter()
    model = get_peft_model(quantised(), lora_config(16, 32, 0.0)).eval()
    tokenizer.padding_side = "left"
    drafts: list[str] = []
    for start in range(0, PROMPTS, BATCH):
        turns = [[{"role": "user", "content": text}] for text in TEXTS[start : start + BATCH]]
        inputs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True,
                max_new_tokens=NEW_TOKENS, num_return_sequences=DRAFTS, top_k=0,
            )  # fmt: skip
        drafts += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    del model
    sampled = time.perf_counter()
    rows = []
    for i, text in enumerate(TEXTS):
        chosen, rejected = sorted(drafts[DRAFTS * i : DRAFTS * i + 2], key=len)
        answers = [[{"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
        rows.append({"prompt": [{"role": "user", "content": text}], "chosen": answers[0], "rejected": answers[1]})
    args = trl.DPOConfig(
        output_dir=str(run), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE,
        bf16=False, gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        lr_scheduler_type="constant", logging_steps=10, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=quantised(), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora_config(16, 32, 0.0),
    )  # fmt: skip
    quiet(trainer).train()
    trainer.model.save_pretrained(run / "adapter")
    return sampled - began, time.perf_counter() - sampled


def online(run: Path, checkpointing: bool) -> tuple[float, float]:
    """TRL's experimental OnlineDPOTrainer, which samples and trains in one; return (0, seconds)."""
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    def shorter(completions: list[Any], **_: Any) -> list[float]:
        return [-float(len(each if isinstance(each, str) else each[0]["content"])) for each in completions]

    tokenizer = load_tokenizer(STUDENT)
    began = time.perf_counter()
    args = OnlineDPOConfig(
        output_dir=str(run), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE,
        max_new_tokens=NEW_TOKENS, temperature=1.0, bf16=False, gradient_checkpointing=checkpointing, use_cpu=True,
        save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=10, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = OnlineDPOTrainer(
        model=quantised(), reward_funcs=shorter, args=args, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in TEXTS]),
        peft_config=lora_config(16, 32, 0.0),
    )  # fmt: skip
    quiet(trainer).train()
    assert trainer.state.global_step == PROMPTS // BATCH
    return 0.0, time.perf_counter() - began


def quiet(trainer: Any) -> Any:
    """Keep the trainer from printing."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


ARMS: dict[str, Callable[[Path], tuple[float, float]]] = {
    "prefdistill": ours,
    "generate + DPOTrainer, batch 16": bare,
    "OnlineDPOTrainer, checkpointing off": lambda run: online(run, checkpointing=False),
    "OnlineDPOTrainer, as shipped": lambda run: online(run, checkpointing=True),
}


def main() -> None:
    """Run all arms in turn and print seconds and ratios."""
    import trl.experimental.online_dpo  # noqa: F401  (imported before the clock runs)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out the arm that takes longest")
    options = parser.parse_args()
    quiet_libraries()
    trainer_class()
    arms = dict(list(ARMS.items())[:-1] if options.quick else ARMS)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(options.repeats):
        for name, arm in arms.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name].append(arm(Path(folder)))
                print(f"  {name}: {sum(seconds[name][-1]):.1f} s", flush=True)
    print(f"{PROMPTS} prompts, {DRAFTS} drafts, {NEW_TOKENS} new tokens, {torch.get_num_threads()} threads")
    totals = {name: statistics.median(map(sum, rows)) for name, rows in seconds.items()}
    for name, rows in seconds.items():
        sampling, training = (statistics.median(each) for each in zip(*rows, strict=True))
        parts = f" (sampling {sampling:.1f}, training {training:.1f})" if sampling else ""
        print(f"{name:38} {totals[name]:6.1f} s   {totals[name] / totals['prefdistill']:.2f}x{parts}")


if __name__ == "__main__":
    main()
