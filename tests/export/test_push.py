"""Uploading, over real HTTP, to a hub on this machine."""

import json

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.export import push as pushing
from tests.export.hub import Hub

pytestmark = pytest.mark.xdist_group("export")
TOKEN = "hf_secret_of_the_test"
NAME = "acme/mail"


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    with Hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield found


def texts(run) -> list[str]:
    rows = [json.loads(line) for line in (run / "round-01" / "4-pairs.jsonl").read_text().splitlines()]
    return [row["chosen"] for row in rows]


def test_model_and_card_alone_go_into_a_private_repository(hub, finished_run, export, tmp_path, same_process):
    lines = export(finished_run, with_pairs=True, push=NAME, base_name="acme/base")
    assert hub.repositories == {f"models/{NAME}": True}
    sent = hub.files[f"models/{NAME}"]
    assert set(sent) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "export.json",
        "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sent["adapter_model.safetensors"] == (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    everything = b"".join(sent.values())
    assert not any(
        json.dumps(text)[1:-1].encode() in everything or text.encode() in everything for text in texts(finished_run)
    )
    assert str(tmp_path).encode() not in everything
    assert str(finished_run).encode() not in everything
    assert TOKEN.encode() not in everything
    assert all(
        TOKEN not in each.read_text(errors="replace") for each in (tmp_path / "out").rglob("*") if each.is_file()
    )
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "acme/base"
    assert "base_model: acme/base" in sent["README.md"].decode()
    assert f'"{NAME}"' in sent["README.md"].decode()
    assert any("uploaded, private" in line for line in lines)


def test_texts_go_only_when_confirmed_and_after_three_rows(hub, finished_run, export, same_process):
    asked = []

    def confirm(text):
        asked.append(text)
        return len(asked) > 1

    options = {"push": NAME, "with_data": True, "format": "merged"}
    with pytest.raises(PrefdistillError, match="nothing was uploaded"):
        export(finished_run, confirm=confirm, **options)
    assert hub.files == {}
    lines = export(finished_run, confirm=confirm, **options)
    assert "exported already" in lines[0]
    assert sum(line.startswith("  chosen") for line in lines) == 3
    assert hub.repositories == {f"models/{NAME}": True, f"datasets/{NAME}-pairs": True}
    assert set(hub.files[f"datasets/{NAME}-pairs"]) == {"README.md", "train.jsonl"}
    assert not any("pairs" in name for name in hub.files[f"models/{NAME}"])


def test_a_public_repository_is_refused(hub, tmp_path):
    (tmp_path / "README.md").write_text("x")
    hub.repositories[f"models/{NAME}"] = False
    with pytest.raises(PrefdistillError, match="the repository is public"):
        pushing.push(NAME, "model", tmp_path, ["README.md"])
    assert hub.files == {}


def test_a_refusal_and_a_dead_hub_are_errors_with_a_remedy(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    (tmp_path / "README.md").write_text("x")
    hub.refuse = 403
    with pytest.raises(PrefdistillError, match=r"refused the upload.*token that may write"):
        pushing.push(NAME, "model", tmp_path, ["README.md"])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PrefdistillError, match=r"cannot be reached.*HF_ENDPOINT"):
        pushing.push(NAME, "model", tmp_path, ["README.md"])


def test_no_token_and_no_name_are_found_before_any_work(hub, finished_run, export, tmp_path, monkeypatch):
    with pytest.raises(PrefdistillError, match="expected ORG/NAME"):
        export(finished_run, push="mail")
    with pytest.raises(PrefdistillError, match="--base-name"):
        export(finished_run, push=NAME)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(PrefdistillError, match="HF_TOKEN"):
        export(finished_run, push=NAME, base_name="acme/base")
    assert not (tmp_path / "out").exists()


def test_rows_shown_cannot_move_the_cursor():
    row = {
        "prompt": [{"content": "a"}],
        "chosen": [{"content": "b\x1b[2J\u202ec"}],
        "rejected": [{"content": "d" * 999}],
    }
    lines = pushing.preview_rows([row])
    assert not any(character in line for line in lines for character in "\x1b\u202e")
    assert max(map(len, lines)) < 450
