"""Which language a prompt is in, as far as its letters tell; where they do not, its script."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import islice
from typing import Any

SURE = 0.5
"""With less probability the language is not named: names, code and a word or two fit many."""
READ = 2_000
"""Characters that are read of a prompt."""
NO_LETTERS = "no letters"
NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "lt": "Lithuanian", "lv": "Latvian", "nb": "Norwegian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian",
    "sv": "Swedish", "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language_of(text: str) -> str:
    """Return the language's name, else the script and that the language is unclear, else that there are no letters.

    py3langid's model knows 97 languages; a short prompt is sometimes taken for another one, on both sides alike.
    """
    text = text[:READ]
    letters = list(islice((letter for letter in text if letter.isalpha()), 400))
    if not letters:
        return NO_LETTERS
    code, probability = _identifier().classify(text)
    if probability >= SURE:
        return NAMES.get(code, str(code))
    scripts = [_script(letter) for letter in letters]
    return f"{max(sorted(set(scripts)), key=scripts.count)} script, language unclear"


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "unnamed").split()[0].capitalize()
